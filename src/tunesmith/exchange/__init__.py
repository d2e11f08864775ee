"""Versions go elsewhere and come from there: the Hugging Face hub, MLflow, OCI registries. Each is one file."""
