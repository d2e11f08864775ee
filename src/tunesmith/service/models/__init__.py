"""The models that a project may name."""
