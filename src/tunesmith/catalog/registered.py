"""Addresses of the registry as models: found, brought to this machine, and put on their own base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunesmith.catalog.bases import require_same_base
from tunesmith.catalog.registering import complete
from tunesmith.registry.blobs import OnProgress, no_progress
from tunesmith.registry.names import Address, parse_address
from tunesmith.registry.place import open_registry
from tunesmith.registry.reading import base_in, bring_out
from tunesmith.registry.versions import Version, find_version, read_checkpoints
from tunesmith.storage.store import Store


@dataclass(frozen=True)
class Registered:
    """A version by what its address means now, and where it is registered."""

    store: Store
    address: Address
    version: Version

    @property
    def needs_checkpoint(self) -> bool:
        """Whether the address names a checkpoint that was not made usable yet."""
        step, record = self.address.step, self.version.record
        if step is None or (record is not None and record.step == step):
            return False
        return step not in read_checkpoints(self.store, self.version.name, self.version.number)


def find_registered(text: str, store: Store | None = None) -> Registered:
    """What an address means; a version whose run has finished since is completed.

    Raises:
        ModelError: It has not the form of an address, or there is no such version; the hint says what there is.
        NetworkError: The registry's storage does not answer.
    """
    store, address = store or open_registry(), parse_address(text)
    version = find_version(store, address)
    if version.state == "training" and complete(store, version):
        version = find_version(store, address.at(version.number))
    return Registered(store, address.at(version.number), version)


def bring_out_registered(found: Registered, cache: Path, on_progress: OnProgress = no_progress) -> Path:
    """The folder of a version, or of one of its checkpoints, on this machine; laid out like a run's.

    Raises:
        ModelError: As :func:`tunesmith.registry.reading.bring_out`.
        OutputError: The cache cannot be written.
        NetworkError: The registry's storage does not answer.
    """
    return bring_out(found.store, found.version, cache / "registry", found.address.step, on_progress)


def require_own_base(folder: Path, base: Path) -> None:
    """Refuse a base that is not the one of a version that was brought out.

    Raises:
        ModelError: ``registry.other_base``.
    """
    facts = base_in(folder)
    if facts is not None and not facts.copied:
        require_same_base(facts, base)
