"""The folder that goes elsewhere, in a form that Transformers, PEFT and the hub read, and the way back.

    README.md, config or adapter files, tokenizer    at the top
    base/                                            the model below, where the version has a copy of it
    tunesmith/record.json                            the record, with hashes of the files that are there
    tunesmith/                                       recipe and report, where they are wanted

Recipes, reports and rendered examples hold rows of the data and paths of the machine: they stay here unless asked for.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from tunesmith.catalog.entries import find_entry
from tunesmith.catalog.registered import Registered, bring_out_registered
from tunesmith.catalog.registering import register_folder
from tunesmith.errors import ModelError, UsageError
from tunesmith.registry.blobs import hash_file
from tunesmith.registry.card import model_card
from tunesmith.registry.reading import not_whole
from tunesmith.registry.record import Origin, Record, parse, to_bytes
from tunesmith.registry.writing import CARD, Content, add_version
from tunesmith.storage.store import Store

_OURS = "tunesmith"
_RECORD = f"{_OURS}/record.json"
# In the folder of what was trained; each holds a row of the data or a path of the machine.
_PRIVATE = ("recipe.yaml.txt", "resolved.json", "rendered_example.txt")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def published(found: Registered, folder: Path, cache: Path, *, with_report: bool) -> Path:
    """Lay a version out to be sent.

    Raises:
        ModelError: It is not whole.
        UsageError: ``usage.push_checkpoint``: only results are sent.
    """
    record = found.version.record
    if record is None:
        raise not_whole(found.version)
    if found.address.step not in (None, record.step):
        raise UsageError(
            "only results are sent elsewhere, not checkpoints",
            code="usage.push_checkpoint",
            value=str(found.address),
            hint=f"send {record.address}",
        )
    source = bring_out_registered(found, cache)
    sent = {name: blob for name, blob in record.files.items() if _is_sent(name, with_report)}
    for name in sent:
        target = folder / _place(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(source / name, target)
    shutil.copyfile(source / CARD, folder / CARD)
    (folder / _OURS).mkdir(exist_ok=True)
    (folder / _RECORD).write_bytes(to_bytes(record.model_copy(update={"files": sent})))
    return folder


def received(
    store: Store,
    folder: Path,
    name: str,
    source: str,
    *,
    description: str = "",
    language: str | None = None,
    with_base: bool = False,
    base_name: str | None = None,
) -> Record:
    """Register what came from elsewhere; hashes are checked where a record brings them.

    Raises:
        ModelError: ``registry.record``, ``registry.blob_changed``, ``registry.blob_missing``, ``registry.base``,
            ``registry.no_model``.
    """
    path = folder / _RECORD
    if not path.is_file():
        return register_folder(
            store,
            folder,
            name,
            origin=Origin(kind="pulled", name=source),
            description=description,
            language=language,
            with_base=with_base,
            base_name=base_name,
            trusted=False,
        )
    record = parse(Record, path.read_bytes(), source)
    _require_named_base(record, source)
    files = {inside: folder / _place(inside) for inside in record.files}
    for inside, place in files.items():
        _require_same(record, inside, place)
    facts = {field: getattr(record, field) for field in Record.model_fields if field not in _OWN}
    facts |= {
        "origin": Origin(kind="pulled", name=f"{source} ({record.address})", identity=record.origin.identity),
        "parent": None,
        "description": description or record.description,
        "language": language or record.language,
    }
    return add_version(store, name, Content(files, facts), model_card)


_OWN = ("format", "name", "version", "created", "tunesmith", "files")


def _is_sent(name: str, with_report: bool) -> bool:
    part, _, rest = name.partition("/")
    if not rest:
        # The manifest that was brought out is not the registered one: it says where the base lies here.
        return with_report and name not in (CARD, "manifest.json")
    return with_report or part == "base" or rest not in _PRIVATE


def _place(name: str) -> str:
    part, _, rest = name.partition("/")
    if part in ("adapter", "model") and rest:
        return rest
    return name if part == "base" and rest else f"{_OURS}/{name}"


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _require_same(record: Record, name: str, place: Path) -> None:
    if not place.is_file() or place.is_symlink():
        raise ModelError("a file of the model did not come", code="registry.blob_missing", place=name)
    found = hash_file(place)
    if found != record.files[name]:
        raise ModelError(
            "a file of the model is not what its record says",
            code="registry.blob_changed",
            place=name,
            value=f"sha256 {found.sha256[:12]}, recorded {record.files[name].sha256[:12]}",
            hint="it was damaged or changed; fetch it again, or ask who sent it",
        )


def _require_named_base(record: Record, source: str) -> None:
    """A base that comes by name must be one of the catalog or the hub: no record may name a folder of this machine."""
    base = record.base
    if record.kind != "adapter" or (base is not None and base.copied):
        return
    if base is None or not (find_entry(base.name) or _HUB_ID.fullmatch(base.name)):
        raise ModelError(
            "the model names a base that is neither in the catalog nor on the hub",
            code="registry.base",
            place=source,
            value=None if base is None else base.name,
            hint="ask who sent it to register it --with-base",
        )
