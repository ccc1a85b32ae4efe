"""Decides who gets the canary: pure functions over frozen values, no I/O, clock or randomness."""
