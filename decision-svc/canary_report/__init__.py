"""Tells the story of a release from what was noted of it, as Markdown and as one HTML page."""
