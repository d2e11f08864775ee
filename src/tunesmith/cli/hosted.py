"""From the command line to the processes of the hosted service, which are started and never imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import orjson

from tunesmith.errors import UsageError, missing_extra

# Libraries of the extra that nothing starts without.
_LIBRARIES = ("sqlalchemy", "alembic", "authlib", "python_multipart")
# The service knows it by the same name.
_CHOICES_VARIABLE = "TUNESMITH_SERVICE_CHOICES"


def default_data_folder() -> Path:
    """Where a service's data lies unless it is said: the user's own data folder, whatever the current folder is."""
    from platformdirs import user_data_path

    return user_data_path("tunesmith") / "service"


def become_service(
    command: str, data_folder: Path | None, choices: Mapping[str, Any], *arguments: str, as_json: bool = False
) -> NoReturn:
    """Let ``python -m tunesmith.service`` take the place of this process.

    Args:
        command: What it is to do.
        data_folder: Where the service's data lies; None is the user's own place.
        choices: Settings by name; they travel in the environment, since a database's address may hold a password.
        arguments: More of the command line, without secrets.
        as_json: Whether it prints JSON.

    Raises:
        UsageError: ``usage.missing_extra``.
    """
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise missing_extra("the hosted service needs libraries of its own", "server", value=", ".join(missing))
    folder = default_data_folder() if data_folder is None else data_folder.expanduser().absolute()
    # -P: a file of the current folder that is named like a library must not be run in its place.
    line = [sys.executable, "-P", "-m", "tunesmith.service", command, "--data-dir", str(folder), *arguments]
    environment = {**os.environ, _CHOICES_VARIABLE: orjson.dumps(dict(choices)).decode()}
    sys.stdout.flush()
    os.execve(sys.executable, [*line, "--json"] if as_json else line, environment)  # noqa: S606


def read_config(path: Path | None) -> dict[str, Any]:
    """Settings of a YAML file; nothing without one.

    Raises:
        UsageError: ``usage.config``: it cannot be read, or is no mapping.
    """
    if path is None:
        return {}
    from tunesmith.errors import RecipeError
    from tunesmith.recipe.yaml_text import read_value

    try:
        found = read_value(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError, RecipeError) as error:
        raise UsageError(
            "the file cannot be read as YAML", code="usage.config", place=str(path), value=_words(error)
        ) from error
    if not isinstance(found, dict):
        raise UsageError("the file holds no keys with values", code="usage.config", place=str(path))
    return found


def executor_section(text: str) -> dict[str, Any]:
    """A recipe's section ``executor``, from ``NAME,key=value,...`` or from a YAML file with that section.

    Raises:
        RecipeError, UsageError: It cannot be read.
    """
    path = Path(text).expanduser()
    if path.suffix in (".yaml", ".yml"):
        found = read_config(path)
        section = found.get("executor", found)
        return {"name": section} if isinstance(section, str) else dict(section)
    from tunesmith.recipe.load import apply_overrides

    name, *settings = text.split(",")
    return apply_overrides({"name": name}, settings)


def _words(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error).splitlines()[0]
