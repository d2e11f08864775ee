"""Deployments: models that answer under a name of the project's own, two versions sharing the requests if it wants."""
