"""Says of a release whether it is as good as stable, and by which evidence: pure, at any time."""
