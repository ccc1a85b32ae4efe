"""Moves releases along their plans: looks, judges, steps, tells people."""
