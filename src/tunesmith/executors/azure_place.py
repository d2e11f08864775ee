"""Where in Azure, as whom, and what is told when it says no.

What a recipe leaves open comes from where the az command keeps it, so that whoever has logged in there and set defaults
need not write them again. No az program is started for it.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from tunesmith.errors import NetworkError, Problem, RecipeError, RunError, TunesmithError, UsageError, missing_extra

EXTRA = "azure"
_SHOWN = 300
# Answers after which the same request may succeed later.
_LATER = frozenset({408, 409, 429, 500, 502, 503, 504})


def resolved_place(given: Mapping[str, str | None], environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Subscription, resource group and workspace: the recipe's, those of the environment, or the az command's.

    Args:
        given: What the recipe says, by its keys ``subscription``, ``resource_group`` and ``workspace``; those that are
            not needed are left out.
        environ: The environment, that of this process unless given.

    Raises:
        RecipeError: ``recipe.azure_place``: something is said nowhere.
    """
    environ = os.environ if environ is None else environ
    folder = Path(environ.get("AZURE_CONFIG_DIR") or Path.home() / ".azure")
    defaults = _defaults(folder / "config")
    else_from: dict[str, Callable[[], str | None]] = {
        "subscription": lambda: environ.get("AZURE_SUBSCRIPTION_ID") or _subscription(folder / "azureProfile.json"),
        "resource_group": lambda: environ.get("AZURE_DEFAULTS_GROUP") or defaults.get("group"),
        "workspace": lambda: environ.get("AZURE_DEFAULTS_WORKSPACE") or defaults.get("workspace"),
    }
    found = {key: value or else_from[key]() for key, value in given.items()}
    hints = {
        "subscription": "az login, or set AZURE_SUBSCRIPTION_ID",
        "resource_group": "az configure --defaults group=NAME",
        "workspace": "az configure --defaults workspace=NAME",
    }
    missing = [
        Problem(
            "recipe.azure_place", "is said nowhere", place=f"executor.{key}", hint=f"write it there, or {hints[key]}"
        )
        for key, value in found.items()
        if not value
    ]
    if missing:
        raise RecipeError("it is not known where in Azure this is to run", problems=missing)
    return {key: value for key, value in found.items() if value}


def default_credential() -> Any:
    """The chain in which Azure's libraries look for who is logged in.

    Raises:
        UsageError: ``usage.missing_extra``: the library is not installed.
    """
    with telling_azure("azure-identity"):
        from azure.identity import DefaultAzureCredential

        return DefaultAzureCredential()


@contextmanager
def telling_azure(place: str) -> Iterator[None]:
    """Turn what Azure's libraries raise into errors of ours: what may succeed later, and what will not."""
    try:
        yield
    except TunesmithError:
        raise
    except ModuleNotFoundError as error:
        raise missing_extra(
            "this needs a library that is not installed", EXTRA, place=place, value=error.name
        ) from error
    except Exception as error:
        raise _told(place, error) from error


def _told(place: str, error: Exception) -> TunesmithError:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = f"{type(error).__name__}: {_in_one_line(error)}"
    if kinds & {"ClientAuthenticationError", "CredentialUnavailableError"}:
        return UsageError(
            "Azure does not know who is asking",
            code="usage.azure_login",
            place=place,
            value=said,
            hint="az login, or another way of azure-identity's DefaultAzureCredential",
        )
    status = getattr(error, "status_code", None)
    if kinds & {"MlException", "ValidationError"}:
        return RecipeError("Azure's library does not take this", code="recipe.azure", place=place, value=said)
    if isinstance(status, int) and status not in _LATER:
        return RunError(
            "Azure refuses this",
            code="azure.refused",
            place=place,
            value=f"{status} {said}",
            hint="check the names in executor: and what your account may do there",
        )
    return NetworkError("Azure did not do what was asked", code="network.azure", place=place, value=said)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:_SHOWN]


def _defaults(path: Path) -> Mapping[str, str]:
    """The section of defaults in the az command's settings."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
    except (OSError, configparser.Error, UnicodeDecodeError):
        return {}
    return dict(parser["defaults"]) if parser.has_section("defaults") else {}


def _subscription(path: Path) -> str | None:
    """The subscription that the az command uses."""
    try:
        # The az command writes it with a byte order mark.
        content = orjson.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except (OSError, orjson.JSONDecodeError):
        return None
    listed = content.get("subscriptions") if isinstance(content, dict) else None
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, dict) and one.get("isDefault") and isinstance(one.get("id"), str):
            found: str = one["id"]
            return found
    return None
