"""Metrics that only others know, as they report them."""
