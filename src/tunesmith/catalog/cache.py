"""Where base models lie on this machine, and which of them are here whole.

MODELS/smollm2-135m-instruct/      a model converted here; tunesmith.json says from what
MODELS/hub/org--name.json          where the hub's own cache holds a model, and with which files
MODELS/.locks/  .downloads/        who prepares a model right now, and what it has so far
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs

from tunesmith.catalog.entries import find_entry
from tunesmith.catalog.resolve import ModelReference
from tunesmith.errors import RunError
from tunesmith.runs.atomic import SCRATCH_MARK, read_json, telling_output_errors, write_json
from tunesmith.runs.lease import Lease

DESCRIPTION = "tunesmith.json"
_POLL_SECONDS = 0.2


def cache_folder() -> Path:
    """TUNESMITH_CACHE, or the user's cache folder."""
    chosen = os.environ.get("TUNESMITH_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else Path(platformdirs.user_cache_dir("tunesmith"))


def machine_file() -> Path:
    """Where this machine's last measurement lies, apart from those of others that share the folder."""
    name = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()) or "machine"
    return cache_folder() / "machines" / f"{name}.json"


def models_folder() -> Path:
    """The folder of prepared models; may not exist yet."""
    return cache_folder() / "models"


def prepared_folder(reference: ModelReference | str) -> Path | None:
    """The folder of a base model that is here whole, or None. Reads neither weights nor the network.

    Args:
        reference: A resolved model, or a catalog id or hub id.
    """
    if isinstance(reference, str):
        entry = find_entry(reference)
        reference = ModelReference("hub" if entry is None else "catalog", reference, None, entry)
    if reference.kind in ("folder", "run", "registry"):
        return reference.path
    if reference.kind == "catalog" and reference.entry is not None:
        converted = converted_folder(reference.entry.id)
        if is_whole(converted):
            return converted
    hub_id = reference.hub_id
    record = None if hub_id is None else read_hub_record(hub_id)
    return None if record is None else Path(record["folder"])


def converted_folder(model_id: str) -> Path:
    """Where the model of that catalog id goes when it is converted here."""
    return models_folder() / model_id


def is_whole(folder: Path) -> bool:
    """Whether a folder has a config and weights. Folders of the cache appear by renaming, so these are whole."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def read_hub_record(hub_id: str) -> dict[str, Any] | None:
    """What is known of a hub model that was fetched whole: folder, revision, files; None where files are missing."""
    path = _hub_record(hub_id)
    if not path.is_file():
        return None
    record: dict[str, Any] = read_json(path)
    folder = Path(record["folder"])
    whole = all(_has_size(folder / name, size) for name, size in record["files"].items())
    return record if whole else None


def write_hub_record(hub_id: str, folder: Path, revision: str) -> dict[str, Any]:
    """Note that the folder of the hub's cache holds the model whole.

    Without this note, an interrupted download could later be taken for a model.

    Raises:
        OutputError: The cache cannot be written.
    """
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    record = {"source": hub_id, "revision": revision, "folder": str(folder), "files": files}
    path = _hub_record(hub_id)
    with telling_output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    return record


def downloads_folder(model_id: str) -> Path:
    """Where files of a model lie until it is converted."""
    return models_folder() / ".downloads" / model_id


@contextmanager
def preparing(model_id: str) -> Iterator[None]:
    """Hold a model while it is fetched and converted; a second process waits here until the first is done.

    What a killed process left behind of this model is removed first.

    Raises:
        OutputError: The cache cannot be written.
    """
    path = models_folder() / ".locks" / f"{model_id}.json"
    with telling_output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    lease = _wait_for(path)
    try:
        for leftover in models_folder().glob(f".{model_id}{SCRATCH_MARK}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        lease.__exit__(None, None, None)


def _wait_for(path: Path) -> Lease:
    while True:
        lease = Lease(path)
        try:
            return lease.__enter__()
        except RunError:
            time.sleep(_POLL_SECONDS)


def _hub_record(hub_id: str) -> Path:
    return models_folder() / "hub" / (hub_id.replace("/", "--") + ".json")


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
