"""What is noted of releases."""
