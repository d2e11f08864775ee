"""What uses a version: exports, deployments, runs that were trained on it, versions that came of these.

A user adds its own small file and takes it away again; nothing is locked. Whoever removes a version marks it first and
looks at references then, and whoever adds a reference looks for that mark afterwards, so that one of the two sees the
other.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

import orjson

from tunesmith.errors import ModelError, Problem, UsageError
from tunesmith.registry.names import LATEST, Address, parse_address
from tunesmith.registry.versions import find_version, now, read_labels, read_version, version_folder
from tunesmith.storage.store import Store

UserKind = Literal["export", "deployment", "run", "version"]
_ID = re.compile(r"[a-z]+-[0-9a-f]{16}")


@dataclass(frozen=True)
class Reference:
    """One user: of which kind, who in words (a path, an address), and since when."""

    id: str
    kind: UserKind
    who: str
    since: str


def reference_id(kind: UserKind, who: str) -> str:
    """The same user has the same id, so that it can take its reference away again."""
    return f"{kind}-{hashlib.sha256(who.encode()).hexdigest()[:16]}"


def add_reference(store: Store, name: str, number: int, kind: UserKind, who: str) -> Reference:
    """Say that something uses a version. A second time does nothing new.

    Raises:
        ModelError: ``registry.removed``: the version is gone.
    """
    reference = Reference(reference_id(kind, who), kind, who, now())
    path = _path(name, number, reference.id)
    content = {"kind": kind, "who": who, "since": reference.since}
    store.create(path, orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
    version = read_version(store, name, number)
    if version is None or version.state == "removed":
        store.remove(path)
        find_version(store, Address(name, number))
    return reference


def drop_reference(store: Store, name: str, number: int, kind: UserKind, who: str) -> None:
    """Say that something no longer uses a version."""
    store.remove(_path(name, number, reference_id(kind, who)))


def release(store: Store, name: str, number: int, identifier: str) -> None:
    """Take a reference away by its id, for users that are gone without a word.

    Raises:
        UsageError: ``registry.reference``: there is none of that id.
    """
    if not _ID.fullmatch(identifier) or not store.exists(_path(name, number, identifier)):
        there = ", ".join(one.id for one in read_references(store, name, number)) or "none"
        raise UsageError(
            "no such reference", code="registry.reference", value=identifier, hint=f"of {name}:{number}: {there}"
        )
    store.remove(_path(name, number, identifier))


def read_references(store: Store, name: str, number: int) -> list[Reference]:
    """What uses a version."""
    folder = f"{version_folder(name, number)}/references"
    found = []
    for file in store.names(folder):
        content = orjson.loads(store.read(f"{folder}/{file}"))
        found.append(Reference(file.removesuffix(".json"), content["kind"], content["who"], content["since"]))
    return found


def remove_version(store: Store, name: str, number: int, *, with_labels: bool = False) -> None:
    """Take a version out of use for good; its files go with the next :func:`tunesmith.registry.collect.collect`.

    Stages and aliases are in the way unless ``with_labels``; what uses the version always is.

    Raises:
        ModelError: ``registry.in_use``, with every user; or there is no such version.
    """
    version = read_version(store, name, number)
    if version is None or version.state == "removed":
        find_version(store, Address(name, number))
    mark = f"{version_folder(name, number)}/removed.json"
    store.write(mark, orjson.dumps({"since": now()}) + b"\n")
    labels = [label for label, labelled in read_labels(store, name).items() if labelled == number]
    problems = [
        Problem("registry.in_use", f"used by a {one.kind}", value=one.who, hint=_way_out(name, number, one))
        for one in read_references(store, name, number)
    ]
    if not with_labels:
        problems += [
            Problem("registry.in_use", "it has a stage or alias", value=f"{name}@{label}", hint="--force takes it away")
            for label in labels
        ]
    if problems:
        store.remove(mark)
        raise ModelError("the version is in use", place=f"{name}:{number}", problems=problems)
    for label in labels:
        store.remove(f"models/{name}/labels/{label}.json")
    if version is not None and version.record is not None and version.record.parent is not None:
        parent = parse_address(version.record.parent)
        if parent.version is not None:
            drop_reference(store, parent.name, parent.version, "version", version.address)
    checkpoints = f"{version_folder(name, number)}/checkpoints"
    for file in store.names(checkpoints):
        store.remove(f"{checkpoints}/{file}")
    store.remove(f"{version_folder(name, number)}/record.json")


def set_label(store: Store, name: str, number: int, label: str) -> int | None:
    """Let a stage or an alias stand for a version; returns the number that it stood for before.

    Raises:
        ModelError: ``registry.removed``: the version has just been removed.
    """
    before = read_labels(store, name).get(label)
    content = {"version": number, "since": now(), "before": before}
    path = f"models/{name}/labels/{label}.json"
    store.write(path, orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
    version = read_version(store, name, number)
    if version is None or version.state == "removed":
        store.remove(path)
        find_version(store, Address(name, number))
    return before


def remove_label(store: Store, name: str, label: str) -> None:
    """Take a stage or an alias away.

    Raises:
        UsageError: ``registry.no_label``: nothing has it.
    """
    labels = read_labels(store, name)
    if label == LATEST or label not in labels:
        there = ", ".join(labels) or "none"
        raise UsageError("nothing has this stage or alias", code="registry.no_label", value=label, hint=there)
    store.remove(f"models/{name}/labels/{label}.json")


def _way_out(name: str, number: int, reference: Reference) -> str:
    if reference.kind == "version":
        return f"remove {reference.who} first"
    return f"end that first; if it is gone: tunesmith registry release {name}:{number} {reference.id}"


def _path(name: str, number: int, identifier: str) -> str:
    return f"{version_folder(name, number)}/references/{identifier}.json"
