"""How the registry's references say that deployments of the service use a version."""

from __future__ import annotations

# With the deployment's id behind it: who uses the version.
OF_DEPLOYMENTS = "the service's deployment "
