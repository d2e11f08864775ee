"""Files: taken in, listed, read, deleted, checked, and removed in time."""
