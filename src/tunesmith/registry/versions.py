"""Numbers and records of versions.

models/NAME/versions/00000003/
  claim.json      made by whoever takes the number; of two at once one gets it
  record.json     written last: its presence means that the version is whole
  checkpoints/    00000120.json for each checkpoint that was made usable
  references/     one small file for each user of the version
  removed.json    the version is no more; its number is never given again
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from tunesmith.errors import ModelError
from tunesmith.registry.names import LATEST, Address
from tunesmith.registry.record import Checkpoint, Claim, Record, parse, to_bytes
from tunesmith.storage.store import Store

State = Literal["whole", "training", "unfinished", "removed"]
_DIGITS = 8


@dataclass(frozen=True)
class Version:
    """A number that was given: ``record`` where the version is whole, ``claim`` in any case."""

    name: str
    number: int
    state: State
    claim: Claim
    record: Record | None = None

    @property
    def address(self) -> str:
        """``name:3``."""
        return f"{self.name}:{self.number}"


def now() -> str:
    """The time in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def version_folder(name: str, number: int) -> str:
    """Where a version lies in the store."""
    return f"models/{name}/versions/{number:0{_DIGITS}d}"


def model_names(store: Store) -> list[str]:
    """Every name under which something was registered."""
    return store.names("models")


def claim_number(store: Store, name: str, claim: Claim) -> int:
    """Take the next number of a name; of several that try at once each gets one of its own.

    Raises:
        OutputError: The storage cannot be written.
        NetworkError: It does not answer.
    """
    number = max(_numbers(store, name), default=0) + 1
    while not store.create(f"{version_folder(name, number)}/claim.json", to_bytes(claim)):
        number += 1
    return number


def write_record(store: Store, record: Record) -> bool:
    """Make a version whole; False where somebody else has completed it meanwhile."""
    return store.create(f"{version_folder(record.name, record.version)}/record.json", to_bytes(record))


def read_versions(store: Store, name: str) -> list[Version]:
    """Every version of a name that was not removed, oldest first."""
    found = [read_version(store, name, number) for number in sorted(_numbers(store, name))]
    return [version for version in found if version is not None and version.state != "removed"]


def read_version(store: Store, name: str, number: int) -> Version | None:
    """One version; None where the number was never given."""
    folder = version_folder(name, number)
    there = store.names(folder)
    if "claim.json" not in there:
        return None
    claim = parse(Claim, store.read(f"{folder}/claim.json"), f"{name}:{number}")
    if "removed.json" in there:
        return Version(name, number, "removed", claim)
    if "record.json" in there:
        record = parse(Record, store.read(f"{folder}/record.json"), f"{name}:{number}")
        _require_own(record, name, number)
        return Version(name, number, "whole", claim, record)
    return Version(name, number, "unfinished" if claim.run_folder is None else "training", claim)


def find_version(store: Store, address: Address) -> Version:
    """The version that an address means.

    Raises:
        ModelError: ``registry.unknown``, ``registry.no_version``, ``registry.no_label``, ``registry.removed``,
            ``registry.unfinished``; each says what there is.
    """
    if address.label is not None:
        return _by_label(store, address)
    assert address.version is not None
    version = read_version(store, address.name, address.version)
    if version is None:
        raise _unknown(store, address)
    if version.state == "removed":
        raise ModelError(
            "the version was removed",
            code="registry.removed",
            place=address.name,
            value=version.address,
            hint=what_there_is(store, address.name),
        )
    if version.state == "unfinished":
        raise ModelError(
            "the version was never finished",
            code="registry.unfinished",
            place=address.name,
            value=f"{version.address}, begun {version.claim.since}",
            hint="whoever registers it may still be at work; register again if not. "
            + what_there_is(store, address.name),
        )
    return version


def read_labels(store: Store, name: str) -> dict[str, int]:
    """Stages and aliases of a name with the number that each stands for."""
    folder = f"models/{name}/labels"
    found = {}
    for file in store.names(folder):
        content: Mapping[str, Any] = orjson.loads(store.read(f"{folder}/{file}"))
        found[file.removesuffix(".json")] = int(content["version"])
    return found


def read_checkpoints(store: Store, name: str, number: int) -> dict[int, Checkpoint]:
    """The checkpoints of a version that were made usable, by step."""
    folder = f"{version_folder(name, number)}/checkpoints"
    found = [
        parse(Checkpoint, store.read(f"{folder}/{file}"), f"{name}:{number}@{file}") for file in store.names(folder)
    ]
    return {checkpoint.step: checkpoint for checkpoint in sorted(found, key=lambda one: one.step)}


def write_checkpoint(store: Store, name: str, number: int, checkpoint: Checkpoint) -> None:
    """Add a checkpoint to a version; one that is there stays."""
    file = f"{checkpoint.step:0{_DIGITS}d}.json"
    store.create(f"{version_folder(name, number)}/checkpoints/{file}", to_bytes(checkpoint))


def what_there_is(store: Store, name: str) -> str:
    """The versions and labels of a name, for people."""
    versions = [version for version in read_versions(store, name) if version.state != "unfinished"]
    shown = ", ".join(version.address for version in versions[-8:])
    labels = ", ".join(f"{name}@{label} is {number}" for label, number in read_labels(store, name).items())
    return f"there is {shown}" + (f"; {labels}" if labels else "") if shown else f"there is no version of {name}"


def _by_label(store: Store, address: Address) -> Version:
    label = str(address.label)
    if label == LATEST:
        whole = [version for version in read_versions(store, address.name) if version.state == "whole"]
        if whole:
            return whole[-1]
        raise _unknown(store, address)
    number = read_labels(store, address.name).get(label)
    if number is None:
        if not _numbers(store, address.name):
            raise _unknown(store, address)
        raise ModelError(
            "no version has this stage or alias",
            code="registry.no_label",
            place=address.name,
            value=label,
            hint=what_there_is(store, address.name),
        )
    return find_version(store, address.at(number))


def _unknown(store: Store, address: Address) -> ModelError:
    if _numbers(store, address.name):
        return ModelError(
            "there is no such version",
            code="registry.no_version",
            place=address.name,
            value=str(address),
            hint=what_there_is(store, address.name),
        )
    names = model_names(store)
    near = difflib.get_close_matches(address.name, names, n=3, cutoff=0.5) or names[:5]
    return ModelError(
        "nothing is registered under this name",
        code="registry.unknown",
        place=store.url,
        value=address.name,
        hint=f"registered are {', '.join(near)}" if near else "`tunesmith registry register RUN --name NAME` does it",
    )


def _numbers(store: Store, name: str) -> list[int]:
    return [int(one) for one in store.names(f"models/{name}/versions") if one.isdecimal()]


def _require_own(record: Record, name: str, number: int) -> None:
    if (record.name, record.version) != (name, number):
        raise ModelError(
            "a record lies under another version's name",
            code="registry.record",
            place=f"{name}:{number}",
            value=record.address,
            hint="the storage was changed from outside",
        )
