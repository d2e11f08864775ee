"""Uploads: a large file that comes in parts."""
