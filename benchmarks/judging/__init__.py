"""The simulation of suite ``judge``: one stream of traffic, and four judges that look at it."""
