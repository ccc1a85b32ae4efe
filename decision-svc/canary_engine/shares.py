"""How a share of users is counted: in whole buckets, never as a fraction that rounds."""

from __future__ import annotations

BUCKETS = 100_000
"""How many buckets hash keys fall into: one bucket is 0.001 %."""
