"""Tells people what the matter is with a release, over whichever channels they have."""
