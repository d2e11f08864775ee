"""What a tuned model stands on, as its registry record says it: name, revision, licence, hashes of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

from tunesmith.catalog.entries import CatalogEntry, find_entry, find_entry_of_hub_id
from tunesmith.errors import ModelError
from tunesmith.registry.blobs import hash_file
from tunesmith.registry.record import Base
from tunesmith.runs.atomic import read_json

_DESCRIPTION = "tunesmith.json"
_FETCHED = ("hub: ", "package: ")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FRONT_BYTES = 65_536


@dataclass(frozen=True)
class BaseModel:
    """A base with the folder in which its files lie here; None where they do not."""

    facts: Base
    folder: Path | None


def describe_base(
    model: Mapping[str, Any], folder: Path | None, *, own: bool, needed: bool, with_base: bool
) -> BaseModel:
    """The base of a run or of an adapter.

    A model of the catalog or the hub is named; what is only a folder has to be copied, or versions would end with it.

    Args:
        model: ``name``, ``source``, ``revision``, ``licence``, ``parameters`` as a run's manifest has them.
        folder: Where it lies on this machine.
        own: The folder belongs to the run itself.
        needed: The version cannot be used without it; a whole model can.
        with_base: Copy the files in any case.

    Raises:
        ModelError: ``registry.base``: it is only a folder, and that is not there any more.
    """
    known = _description(folder)
    name, source = str(model.get("name") or known.get("model") or ""), str(model.get("source") or "folder")
    entry = _entry(name) or _entry(str(known.get("model") or ""))
    fetched = not own and source.startswith(_FETCHED) and (entry is not None or _HUB_ID.fullmatch(name) is not None)
    copied = with_base or (needed and not fetched)
    if folder is None and copied:
        raise ModelError(
            "the base model of what is to be registered is not here any more",
            code="registry.base",
            place=name or None,
            value=source,
            hint="bring it back to where it was, or train again",
        )
    licence = model.get("licence") or (entry.licence if entry else known.get("licence")) or _card_licence(folder)
    base = Base(
        name=_shown_name(name, entry if fetched else None, is_path=not fetched),
        source=source,
        revision=model.get("revision") or known.get("revision"),
        licence=licence,
        licence_url=entry.licence_url if entry is not None else known.get("licence_url"),
        parameters=model.get("parameters"),
        hub_id=_hub_id(name, entry) if fetched else None,
        copied=copied,
        weights={} if folder is None else weights_of(folder),
    )
    return BaseModel(base, folder)


def weights_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each safetensors file; what was converted here has them written down."""
    written = _description(folder).get("sha256") or {}
    files = sorted(folder.glob("*.safetensors"))
    return {path.name: written.get(path.name) or hash_file(path).sha256 for path in files}


def require_same_base(base: Base, folder: Path) -> None:
    """Refuse a base model that has its name and other weights.

    The revision decides where the folder is named by it, as in the hub's cache; hashes do otherwise.

    Raises:
        ModelError: ``registry.other_base``.
    """
    if not base.weights or (base.revision is not None and folder.resolve().name == base.revision):
        return
    found = weights_of(folder)
    if found == base.weights:
        return
    wrong = next((name for name in sorted(base.weights) if found.get(name) != base.weights[name]), "more files")
    raise ModelError(
        "the base model here is not the one that the version was trained on",
        code="registry.other_base",
        place=base.name,
        value=f"{wrong} differs; trained on revision {base.revision or 'unknown'}",
        hint=f"bring that state of it to {folder}; a version that is registered --with-base needs no other",
    )


def _shown_name(name: str, entry: CatalogEntry | None, *, is_path: bool) -> str:
    """The name that others may find it by: no record holds a path of this machine."""
    if entry is not None:
        return entry.id
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] or "base" if is_path else name


def _entry(name: str) -> CatalogEntry | None:
    return find_entry(name) or find_entry_of_hub_id(name) if name else None


def _hub_id(name: str, entry: CatalogEntry | None) -> str | None:
    if entry is not None:
        return next((source.name for source in entry.sources if source.kind == "hub"), None)
    return name if _HUB_ID.fullmatch(name) else None


def _description(folder: Path | None) -> Mapping[str, Any]:
    if folder is None or not (folder / _DESCRIPTION).is_file():
        return {}
    try:
        found = read_json(folder / _DESCRIPTION)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _card_licence(folder: Path | None) -> str | None:
    """What the model's own card says in its front matter."""
    if folder is None or not (folder / "README.md").is_file():
        return None
    with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
        text = file.read(_FRONT_BYTES)
    if not text.startswith("---"):
        return None
    try:
        front = yaml.safe_load(text[3:].partition("\n---")[0])
    except yaml.YAMLError:
        return None
    licence = front.get("license") if isinstance(front, dict) else None
    return licence[:80] if isinstance(licence, str) else None
