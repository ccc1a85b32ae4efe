"""Ways to get a decision."""
