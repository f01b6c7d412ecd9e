"""Building blocks that two families really share."""
