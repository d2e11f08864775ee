"""Runs and the registry: a run uses the version that it is trained on, and versions wait for its result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import yaml

from tunesmith.errors import ModelError, TunesmithError
from tunesmith.registry.names import Address, looks_like_address, parse_address
from tunesmith.registry.place import open_registry
from tunesmith.registry.references import add_reference, drop_reference
from tunesmith.registry.versions import find_version
from tunesmith.runs.atomic import read_json, write_json
from tunesmith.runs.layout import RunFolder

if TYPE_CHECKING:
    from tunesmith.recipe.schema import Recipe

_WAITING = "registered.json"


def with_version(recipe: Recipe) -> Recipe:
    """The recipe with a stage or an alias replaced by the version that it means now: a run must not change its base.

    Raises:
        ModelError: The address means nothing.
    """
    address = _address(recipe.model)
    if address is None or address.label is None:
        return recipe
    version = find_version(open_registry(), address)
    return recipe.model_copy(update={"model": str(address.at(version.number))})


def note_use(run: RunFolder, model: str) -> None:
    """Say in the registry that a run is trained on a version of it.

    Raises:
        ModelError: The version has just been removed.
        OutputError, NetworkError: The registry cannot be written.
    """
    address = _address(model)
    if address is not None and address.version is not None:
        add_reference(open_registry(), address.name, address.version, "run", str(run.path.resolve()))


def forget_use(run: RunFolder, model: str) -> None:
    """Take that back, where the registry can be reached; a run is removed in any case."""
    address = _address(model)
    if address is None or address.version is None:
        return
    try:
        drop_reference(open_registry(), address.name, address.version, "run", str(run.path.resolve()))
    except TunesmithError:
        return


def used_model(run: RunFolder) -> str | None:
    """The model of a run's recipe, where it is a version of the registry."""
    try:
        recipe = yaml.safe_load(run.recipe.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return None
    model = recipe.get("model") if isinstance(recipe, dict) else None
    return model if isinstance(model, str) and _address(model) is not None else None


def note_waiting(run: RunFolder, registry: str, address: str) -> None:
    """Write into a run's folder that a version waits for its result.

    Raises:
        OutputError: The folder cannot be written.
    """
    known = _waiting(run)
    entry = {"registry": registry, "address": address}
    if entry not in known:
        write_json(run.path / _WAITING, [*known, entry])


def complete_versions(run: RunFolder) -> None:
    """Complete the versions that wait for a run's result, where it has one.

    Raises:
        TunesmithError: A registry cannot be read or written.
    """
    from tunesmith.catalog.registered import find_registered

    if not run.manifest.is_file():
        return
    for entry in _waiting(run):
        try:
            find_registered(entry["address"], open_registry(entry["registry"]))
        except ModelError as error:
            # It was removed, or never finished.
            if not error.code.startswith("registry."):
                raise


def _waiting(run: RunFolder) -> list[dict[str, Any]]:
    path: Path = run.path / _WAITING
    try:
        found = read_json(path)
    except (OSError, orjson.JSONDecodeError):
        return []
    return found if isinstance(found, list) else []


def _address(model: str) -> Address | None:
    """The address that a model's name is; None for other names and for folders that happen to look like one."""
    if not looks_like_address(model) or Path(model).expanduser().exists():
        return None
    try:
        return parse_address(model)
    except ModelError:
        return None
