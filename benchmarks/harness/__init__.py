"""What the suites share: one policy, processes to measure against, medians and their table."""
