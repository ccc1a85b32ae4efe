"""Who of several may act, and by which fencing token."""
