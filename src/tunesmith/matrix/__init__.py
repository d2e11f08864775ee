"""Scenario by technique, measured: what is run, what came of it, and which yes or no follows."""
