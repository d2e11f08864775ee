"""Where the registry lies: a store, named on the command line or by the environment."""

from __future__ import annotations

import os
from pathlib import Path

from tunesmith.storage.address import open_store
from tunesmith.storage.store import Store


def default_registry() -> str:
    """TUNESMITH_REGISTRY, or ``registry`` under TUNESMITH_HOME or in the current folder."""
    chosen, home = os.environ.get("TUNESMITH_REGISTRY"), os.environ.get("TUNESMITH_HOME")
    return chosen or (str(Path(home).expanduser() / "registry") if home else "registry")


def open_registry(url: str | None = None) -> Store:
    """The registry at an address, or the default one; errors as of :func:`tunesmith.storage.address.open_store`."""
    return open_store(url or default_registry())
