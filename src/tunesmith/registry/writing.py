"""A version goes in: its number is taken, its files are copied, and its record is written last."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import orjson

from tunesmith.errors import ModelError, TunesmithError
from tunesmith.registry.blobs import OnProgress, hash_file, hash_files, intending, no_progress, put_blobs
from tunesmith.registry.names import Address, check_name, parse_address
from tunesmith.registry.record import Base, Blob, Checkpoint, Claim, Record, check_path
from tunesmith.registry.references import add_reference
from tunesmith.registry.versions import (
    Version,
    claim_number,
    find_version,
    now,
    read_version,
    read_versions,
    version_folder,
    write_checkpoint,
    write_record,
)
from tunesmith.storage.store import Store

CARD = "README.md"


@dataclass(frozen=True)
class Content:
    """What is to be registered: files by their place in the version, and what the record says of them.

    ``facts`` are fields of :class:`Record` beside name, version, time and files.
    """

    files: Mapping[str, Path]
    facts: Mapping[str, Any]


MakeCard = Callable[[Record], str]


def add_version(
    store: Store,
    name: str,
    content: Content,
    make_card: MakeCard,
    *,
    number: int | None = None,
    claim: Claim | None = None,
    on_progress: OnProgress = no_progress,
) -> Record:
    """Make a version out of files; what is there already under this name, byte for byte, is only found.

    Args:
        store: The registry.
        name: Under which name.
        content: Files and facts.
        make_card: Writes the model card of a record.
        number: That of a version that was claimed before; the next free one is taken otherwise.
        claim: What is said of a number that is taken now.
        on_progress: Told of bytes that were hashed and copied.

    Raises:
        UsageError: The name is not usable.
        ModelError: A file has a name that no record may hold, or changed meanwhile.
        OutputError: The disk is full; no version appears.
        NetworkError: The storage does not answer.
    """
    _require_usable_paths(content.files)
    blobs = hash_files(content.files, on_progress)
    if number is None:
        there = _same_version(store, check_name(name), content, blobs)
        if there is not None:
            return there
    is_new = number is None
    taken = claim_number(store, check_name(name), claim or Claim(since=now())) if number is None else number
    record = Record(
        name=name, version=taken, created=now(), tunesmith=installed("tunesmith"), files=blobs, **content.facts
    )
    try:
        with tempfile.TemporaryDirectory(prefix="tunesmith-card-") as scratch:
            card = Path(scratch) / CARD
            card.write_text(make_card(record), encoding="utf-8")
            blobs = {**blobs, CARD: hash_file(card)}
            with intending(store, blobs.values()):
                put_blobs(store, {**content.files, CARD: card}, blobs, on_progress)
                record = record.model_copy(update={"files": blobs})
                write_record(store, record)
    except TunesmithError:
        if is_new:
            _give_up(store, name, taken)
        raise
    _refer_to_parent(store, record)
    whole = find_version(store, Address(name, taken)).record
    assert whole is not None
    return whole


def add_checkpoint(
    store: Store,
    version: Version,
    step: int,
    files: Mapping[str, Path],
    base: Base | None,
) -> None:
    """Keep a checkpoint of a version that was made usable.

    Raises:
        OutputError: The disk is full.
        NetworkError: The storage does not answer.
    """
    _require_usable_paths(files)
    blobs = hash_files(files)
    checkpoint = Checkpoint(step=step, created=now(), base=base, files=blobs)
    with intending(store, blobs.values()):
        put_blobs(store, files, blobs)
        write_checkpoint(store, version.name, version.number, checkpoint)


def claim_of_run(run: Path, *, description: str, language: str | None, with_base: bool) -> Claim:
    """What is said of a number that a run takes: whoever reads it can complete the version."""
    return Claim(
        since=now(),
        run=run.name,
        run_folder=str(run.resolve()),
        description=description,
        language=language,
        with_base=with_base,
    )


def claim_for_run(store: Store, name: str, claim: Claim) -> Version:
    """A version of a run that still trains; the one that the run has under this name already, or a new number.

    Raises:
        UsageError: The name is not usable.
    """
    known = version_of_run(store, check_name(name), Path(str(claim.run_folder)))
    return known or find_version(store, Address(name, claim_number(store, name, claim)))


def version_of_run(store: Store, name: str, run: Path) -> Version | None:
    """The version of a name that was claimed for a run and is not whole yet."""
    for number in sorted(map(int, store.names(f"models/{name}/versions")), reverse=True):
        version = read_version(store, name, number)
        if version is not None and version.state == "training" and version.claim.run_folder == str(run.resolve()):
            return version
    return None


def _same_version(store: Store, name: str, content: Content, blobs: Mapping[str, Blob]) -> Record | None:
    """The version that was made of the same run or folder with the same bytes."""
    for version in reversed(read_versions(store, name)):
        record = version.record
        if record is not None and record.origin == content.facts["origin"]:
            files = {path: blob for path, blob in record.files.items() if path != CARD}
            if files == blobs:
                return record
    return None


def _require_usable_paths(files: Mapping[str, Path]) -> None:
    for name in files:
        try:
            check_path(name)
        except ValueError as error:
            raise ModelError(
                "a file has a name that cannot be registered",
                code="registry.file_name",
                value=name,
                hint="rename it, or remove it from the folder",
            ) from error


def _give_up(store: Store, name: str, number: int) -> None:
    """Mark a number whose version will never be, so that nobody waits for it; as far as the storage lets us."""
    try:
        store.write(f"{version_folder(name, number)}/removed.json", orjson.dumps({"since": now()}) + b"\n")
    except TunesmithError:
        return


def _refer_to_parent(store: Store, record: Record) -> None:
    """Say in the parent that this version came of it; a parent of another registry is only named."""
    if record.parent is None:
        return
    try:
        parent = parse_address(record.parent)
        if parent.version is not None:
            add_reference(store, parent.name, parent.version, "version", record.address)
    except ModelError:
        return
