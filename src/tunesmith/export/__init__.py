"""Models in the forms that other programs take: one file for each, written and then read back by its own runtime."""
