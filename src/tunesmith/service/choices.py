"""From what an operator chose to the settings of a service.

Choices stay in the data folder (``choices.json``): what was said once need not be said again, and a start without
options finds the same database as the one before. Whatever was never chosen has a default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tunesmith.catalog.entries import find_entry
from tunesmith.errors import Problem, UsageError
from tunesmith.recipe.executors import Executor, ExecutorSpec
from tunesmith.runs.atomic import read_json, write_json
from tunesmith.service.settings import Settings

FILE = "choices.json"
# Where the data lies is what finds the choices; it cannot be one of them.
_PLACE = "data_folder"


def known_choices(data_folder: Path) -> dict[str, Any]:
    """What was chosen before; nothing for a new data folder."""
    path = data_folder / FILE
    return dict(read_json(path)) if path.exists() else {}


def keep_choices(data_folder: Path, choices: Mapping[str, Any]) -> None:
    """Let the next start know them."""
    write_json(data_folder / FILE, dict(choices))


def settings_of(data_folder: Path, choices: Mapping[str, Any]) -> Settings:
    """The settings that choices make.

    Args:
        data_folder: An absolute path.
        choices: Names and values of :class:`Settings`.

    Raises:
        UsageError: ``service.settings``: an unknown name or a value that cannot be; every problem is told.
    """
    if _PLACE in choices:
        raise UsageError(
            "the data folder is given by --data-dir", code="service.settings", place=_PLACE, value=choices[_PLACE]
        )
    defaults = {
        "database": f"sqlite:///{data_folder / 'service.db'}",
        "storage": str(data_folder / "storage"),
    }
    try:
        settings = Settings.model_validate({**defaults, **choices, _PLACE: data_folder})
    except ValidationError as error:
        raise _told(error, "") from error
    _require_executor(settings)
    _require_models(settings)
    return settings


def make_private_folder(path: Path) -> None:
    """Make a folder that only this user can look into; one that is there is closed to others.

    Raises:
        UsageError: ``service.data_folder``: it cannot be made, or is somebody else's.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        os.chmod(path, 0o700)  # noqa: PTH101
    except OSError as error:
        raise UsageError(
            "the data folder cannot be made or closed to others",
            code="service.data_folder",
            place=str(path),
            value=error.strerror,
            hint="choose another one with --data-dir",
        ) from error


def _require_executor(settings: Settings) -> None:
    try:
        TypeAdapter[ExecutorSpec](Executor).validate_python(settings.executor)
    except ValidationError as error:
        raise _told(error, "executor.") from error


def _require_models(settings: Settings) -> None:
    problems = []
    for name in settings.models:
        _, separator, folder = name.partition("=")
        if separator and not Path(folder).is_dir():
            problems.append(Problem("service.settings", "there is no such folder", "models", name))
        elif not separator and find_entry(name) is None:
            hint = "name an id of the catalog (`tunesmith models list`), or NAME=FOLDER"
            problems.append(Problem("service.settings", "the catalog has no such model", "models", name, hint))
    if problems:
        raise UsageError("models that cannot be offered", problems=problems)


def _told(error: ValidationError, above: str) -> UsageError:
    problems = [
        # The value is not shown: the address of a database may have a password in it.
        Problem("service.settings", found["msg"], above + ".".join(str(part) for part in found["loc"]))
        for found in error.errors(include_url=False, include_context=False)
    ]
    return UsageError("the settings make no sense", problems=problems)
