"""A version comes out: a folder that is laid out like a run's, every file checked against the record.

adapter/ or model/    what was trained
base/                 the model below, where the version has a copy of it
manifest.json         as of a run; where the base lies is told from here
record.json           the version's record
recipe.yaml, resolved.json, report.json, README.md, ...
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import orjson

from tunesmith.errors import ModelError, OutputError
from tunesmith.registry.blobs import OnProgress, no_progress, take_out
from tunesmith.registry.names import Address
from tunesmith.registry.record import Base, Blob, Checkpoint, Record, parse, to_bytes
from tunesmith.registry.versions import Version, read_checkpoints
from tunesmith.runs.atomic import new_folder, read_json, telling_output_errors, write_bytes, write_json
from tunesmith.storage.store import Store

_RECORD = "record.json"
_ORIGIN = "registry.json"
_BASE = "base.json"


def part_of(store: Store, version: Version, step: int | None = None) -> Record | Checkpoint:
    """What is brought out: the record of a version, or that of a checkpoint.

    Raises:
        ModelError: ``registry.training``: there is no result yet; ``registry.no_checkpoint``.
    """
    record = version.record
    if step is None or (record is not None and record.step == step):
        if record is None:
            raise not_whole(version)
        return record
    checkpoint = read_checkpoints(store, version.name, version.number).get(step)
    if checkpoint is None:
        raise no_checkpoint(store, version, step)
    return checkpoint


def bring_out(
    store: Store, version: Version, cache: Path, step: int | None = None, on_progress: OnProgress = no_progress
) -> Path:
    """Bring a version, or a checkpoint that was made usable, to this machine; what is there already is only found.

    Args:
        store: The registry.
        version: A version that is whole, or whose checkpoint is asked for.
        cache: The folder in which it gets one of its own.
        step: The checkpoint; None for the result.
        on_progress: Told of bytes.

    Raises:
        ModelError: As :func:`part_of`; files are missing or changed.
        OutputError: The cache cannot be written.
        NetworkError: The storage does not answer.
    """
    part = part_of(store, version, step)
    content = to_bytes(part)
    # No folder on disk has the marks of an address in its name.
    name = f"{version.name}-{version.number}" + (f"-step-{step}" if isinstance(part, Checkpoint) else "")
    target = cache / f"{name}-{hashlib.sha256(store.url.encode() + content).hexdigest()[:12]}"
    if target.is_dir():
        return target
    with telling_output_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
    try:
        with new_folder(target) as scratch:
            _fill(store, part.files, scratch, on_progress)
            write_json(scratch / _ORIGIN, {"registry": store.url, "name": version.name, "version": version.number})
            _write_manifest(scratch, version, part.base)
            write_bytes(scratch / _RECORD, content)
            if part.base is not None:
                write_bytes(scratch / _BASE, to_bytes(part.base))
    except OutputError:
        # Somebody else may have brought it out meanwhile.
        if not target.is_dir():
            raise
    return target


def base_in(folder: Path) -> Base | None:
    """What is known of the base of a version, in the folder that :func:`bring_out` made."""
    path = folder / _BASE
    return parse(Base, path.read_bytes(), str(path)) if path.is_file() else None


def brought_out_of(store: Store, cache: Path) -> dict[Path, Address]:
    """Folders of a cache with versions of this registry."""
    found = {}
    for folder in cache.iterdir() if cache.is_dir() else ():
        try:
            origin = read_json(folder / _ORIGIN)
        except (OSError, orjson.JSONDecodeError):
            continue
        if origin.get("registry") == store.url:
            found[folder] = Address(str(origin["name"]), int(origin["version"]))
    return found


def not_whole(version: Version) -> ModelError:
    """The error for the result of a run that still trains."""
    return ModelError(
        "the version's run has not finished",
        code="registry.training",
        place=version.address,
        value=version.claim.run,
        hint=f"use one of its checkpoints: tunesmith registry show {version.address}; or go on with the run: "
        f"tunesmith runs resume {version.claim.run}",
    )


def no_checkpoint(store: Store, version: Version, step: int, of_run: Collection[int] = ()) -> ModelError:
    """The error for a checkpoint that is not there; ``of_run`` are steps that its run could give."""
    there = [str(one) for one in sorted({*read_checkpoints(store, version.name, version.number), *of_run})]
    if version.record is not None and version.record.step is not None:
        there.append(f"{version.record.step} (the result)")
    return ModelError(
        "the version has no checkpoint of this step",
        code="registry.no_checkpoint",
        place=version.address,
        value=str(step),
        hint=f"steps that are there: {', '.join(there) or 'none'}",
    )


def _fill(store: Store, files: Mapping[str, Blob], folder: Path, on_progress: OnProgress) -> None:
    total, done = sum(blob.size_bytes for blob in files.values()), 0
    for name, blob in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        take_out(store, blob, target, name)
        done += blob.size_bytes
        on_progress("fetch", done, total, "bytes")


def _write_manifest(folder: Path, version: Version, base: Base | None) -> None:
    """The run's manifest with the base's place as it is from here; one in its form where there was no run."""
    path = folder / "manifest.json"
    found: dict[str, Any] = read_json(path) if path.is_file() else {"format": 1, "run": version.address}
    model = dict(found.get("model") or {})
    if base is not None:
        known = {"name": base.name, "source": base.source, "revision": base.revision, "licence": base.licence}
        model = {**model, **known}
    model["folder"] = "base" if (folder / "base").is_dir() else None
    # The blob is shared and stays as it is.
    path.unlink(missing_ok=True)
    write_json(path, {**found, "model": model})
