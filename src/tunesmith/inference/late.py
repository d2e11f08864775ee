"""Versions of a registry that requests name and that nobody named when the server started.

A version is answered where its base is served already, so that it takes the memory of an adapter and not of a model.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tunesmith.catalog.bases import weights_of
from tunesmith.catalog.cache import cache_folder
from tunesmith.catalog.registered import Registered, bring_out_registered, find_registered
from tunesmith.errors import ModelError, TunesmithError
from tunesmith.inference.failures import RefusedError
from tunesmith.registry.names import looks_like_address
from tunesmith.registry.reading import part_of
from tunesmith.registry.references import add_reference, drop_reference
from tunesmith.storage.store import Store
from tunesmith.wire.serving import ServedModel


class LateVersions:
    """Finds versions by their addresses, and says in the registry that they are used.

    Args:
        store: The registry.
        bases: Folders of the models that are served with PyTorch.
    """

    def __init__(self, store: Store, bases: Sequence[Path]) -> None:
        self._store = store
        self._bases = tuple(dict.fromkeys(bases))
        self._who = f"tunesmith serve --registered, process {os.getpid()} on {socket.gethostname()}"
        self._found: dict[str, ServedModel] = {}
        self._used: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def find(self, name: str) -> ServedModel | None:
        """The version of an address, under the name that says its number; None for what is no address.

        A stage or an alias means what it means at this moment.

        Raises:
            RefusedError: There is no such version, or it cannot be answered for here.
        """
        if not looks_like_address(name):
            return None
        if name in self._found:
            return self._found[name]
        try:
            found = find_registered(name, self._store)
        except ModelError as error:
            raise _not_found(name, error.lines()[0]) from error
        address = str(found.address)
        with self._lock:
            if address not in self._found:
                self._found[address] = self._brought(found, address)
        return self._found[address]

    def close(self) -> None:
        """Say in the registry that nothing is used any more, as far as it can be reached."""
        for name, number in self._used:
            try:
                drop_reference(self._store, name, number, "deployment", self._who)
            except TunesmithError:
                continue

    def _brought(self, found: Registered, address: str) -> ServedModel:
        if found.needs_checkpoint:
            raise _not_found(address, "this checkpoint was not made usable yet; `tunesmith chat` on it does so once")
        try:
            part = part_of(self._store, found.version, found.address.step)
        except ModelError as error:
            raise _not_found(address, error.lines()[0]) from error
        weights = part.base.weights if part.base is not None else {}
        base = next((folder for folder in self._bases if weights and _weights(folder) == weights), None)
        if base is None or not any(path.startswith("adapter/") for path in part.files):
            raise _not_found(address, "its base is not served here; name it when the server is started")
        add_reference(self._store, found.address.name, found.version.number, "deployment", self._who)
        self._used.add((found.address.name, found.version.number))
        return ServedModel(address, base, bring_out_registered(found, cache_folder()) / "adapter")


@cache
def _weights(folder: Path) -> dict[str, str]:
    return weights_of(folder)


def _not_found(name: str, why: str) -> RefusedError:
    return RefusedError(404, f"The model `{name}` does not exist here: {why}", param="model", code="model_not_found")
