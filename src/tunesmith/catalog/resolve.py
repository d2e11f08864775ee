"""What a model's name means: a folder, a run, a registered version, a model of the catalog, or one of the hub."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tunesmith.catalog.entries import CatalogEntry, catalog_entries, find_entry, find_entry_of_hub_id
from tunesmith.errors import ModelError
from tunesmith.registry.names import looks_like_address
from tunesmith.runs.layout import NAME_PATTERN, RunFolder, list_runs

if TYPE_CHECKING:
    from tunesmith.catalog.registered import Registered

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ModelReference:
    """A model by what its name means.

    ``path`` is the folder of a folder or run, and ``name`` what the user wrote; for the catalog and the hub ``name``
    is the id, for the registry the address with its number. ``entry`` is what the catalog knows of it, also where a hub
    id names a model of the catalog. ``registered`` is the version; its ``path`` is known once it was brought out.
    """

    kind: Literal["folder", "run", "registry", "catalog", "hub"]
    name: str
    path: Path | None = None
    entry: CatalogEntry | None = None
    registered: Registered | None = None

    @property
    def run(self) -> RunFolder | None:
        """The folder of a run, or of a version that was brought out, which is laid out like one."""
        return RunFolder(self.path) if self.kind in ("run", "registry") and self.path is not None else None

    @property
    def hub_id(self) -> str | None:
        """The repository that the hub source of this model has; None where it has none."""
        if self.kind == "hub":
            return self.name
        sources = self.entry.sources if self.entry is not None and self.kind == "catalog" else ()
        return next((source.name for source in sources if source.kind == "hub"), None)


def resolve_model(name: str, runs_folder: Path) -> ModelReference:
    """Find out what a model's name means, without touching the network; for a version its registry is asked.

    Args:
        name: A folder, a run's name or folder, a version of the registry, a catalog id, or a hub id.
        runs_folder: Where runs are looked for by name.

    Raises:
        ModelError: ``model.unknown``, ``model.missing_folder``, ``model.not_a_folder``, ``model.no_config``; the hint
            names what comes nearest. For addresses see :func:`tunesmith.catalog.registered.find_registered`.
        NetworkError: The registry's storage does not answer.
    """
    path = Path(name).expanduser()
    if _is_run(path):
        return ModelReference("run", name, path.resolve())
    if _is_model(path):
        return ModelReference("folder", name, path.resolve())
    if NAME_PATTERN.fullmatch(name) and _is_run(runs_folder / name):
        return ModelReference("run", name, (runs_folder / name).resolve())
    if looks_like_address(name) and not path.exists():
        from tunesmith.catalog.registered import find_registered

        found = find_registered(name)
        return ModelReference("registry", str(found.address), None, None, found)
    entry = find_entry(name)
    if entry is not None:
        return ModelReference("catalog", entry.id, None, entry)
    _check_path(name, path)
    if _HUB_ID.fullmatch(name):
        return ModelReference("hub", name, None, find_entry_of_hub_id(name))
    raise ModelError("no such model", code="model.unknown", value=name, hint=_nearest(name, runs_folder))


def _is_run(path: Path) -> bool:
    return (path / "recipe.yaml").is_file()


def _is_model(path: Path) -> bool:
    return (path / "config.json").is_file() or (path / "adapter_config.json").is_file()


def _check_path(name: str, path: Path) -> None:
    """Refuse what can only be a path and holds no model; a hub must not be asked for it."""
    if path.is_file():
        raise ModelError(
            "a model is a folder, not a file",
            code="model.not_a_folder",
            place=name,
            hint="give the folder that holds config.json, safetensors and the tokenizer",
        )
    if path.is_dir():
        raise ModelError(
            "the folder holds no model",
            code="model.no_config",
            place=name,
            value="neither config.json nor adapter_config.json is there",
            hint="give the folder that holds config.json; for a hub id of the same name, change to another folder",
        )
    if path.is_absolute() or name.startswith(("./", "../", "~")) or name.endswith("/") or name.count("/") > 1:
        raise ModelError("no such folder", code="model.missing_folder", place=name, hint="check the path")


def _nearest(name: str, runs_folder: Path) -> str:
    ids = [entry.id for entry in catalog_entries()]
    runs = [run.name for run in list_runs(runs_folder)]
    near = difflib.get_close_matches(name.lower(), ids + runs, n=3, cutoff=0.5)
    lead = f"did you mean {' or '.join(f'`{word}`' for word in near)}? " if near else ""
    return lead + "`tunesmith models list` shows the catalog; a hub id is written org/name, a folder with its path"
