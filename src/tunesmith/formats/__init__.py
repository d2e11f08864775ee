"""Training files: find, detect, parse, validate with line numbers, count and split. Never loads torch."""
