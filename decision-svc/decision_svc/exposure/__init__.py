"""How many users each variant of a release has served, and, if it is kept, which."""
