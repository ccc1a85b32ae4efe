"""Files that canaryctl hands out."""
