"""The official SDK of Azure ML, kept quiet and asked as whoever is logged in."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from tunesmith.errors import NetworkError
from tunesmith.executors.azure_place import default_credential, resolved_place, telling_azure

_LOG_SECONDS = 60.0


@contextmanager
def quiet() -> Iterator[None]:
    """While the block runs, the SDK does not say that parts of it are experimental; what it refuses it raises."""
    loggers = [logging.getLogger(name) for name in ("azure", "azureml", "msrest")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def open_workspace(subscription: str | None, resource_group: str | None, workspace: str | None) -> Any:
    """A client of a workspace; what is None comes from the az command's defaults. Nothing is asked yet.

    Raises:
        RecipeError: ``recipe.azure_place``: it is not known which.
        UsageError: ``usage.missing_extra``: the SDK is not installed.
    """
    place = resolved_place({"subscription": subscription, "resource_group": resource_group, "workspace": workspace})
    with telling_azure(f"workspace {place['workspace']}"), quiet():
        from azure.ai.ml import MLClient

        return MLClient(
            default_credential(),
            place["subscription"],
            place["resource_group"],
            place["workspace"],
            show_progress=False,
            enable_telemetry=False,
        )


@contextmanager
def written(files: Mapping[str, str]) -> Iterator[Path]:
    """A folder with these texts, as long as the block lasts: documents name each other, and what goes along."""
    with TemporaryDirectory(prefix="tunesmith-azure-") as folder:
        for name, text in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        yield Path(folder)


def loaded(folder: Path, name: str, load: str) -> Any:
    """A document as the SDK's own object.

    Args:
        folder: Where it lies.
        name: Its file.
        load: The name of the SDK's function for it, such as ``load_job``.

    Raises:
        RecipeError: The SDK does not take it.
    """
    with telling_azure(name), quiet():
        # The one for batch deployments of today's form has no public name.
        from azure.ai.ml.entities import _load_functions

        function: Callable[..., Any] = getattr(_load_functions, load)
        return function(folder / name)


def log_lines(client: Any, name: str) -> Iterator[str]:
    """What a job and its steps have printed so far.

    Raises:
        TunesmithError: There is no answer.
    """
    with telling_azure(f"job {name}"), quiet():
        # The SDK's own way to logs prints them, and returns when the job has ended.
        runs = client.jobs._runs_operations
        details = [runs.get_run_details(name)]
        details += [runs.get_run_details(child.name) for child in runs.get_run_children(name) if child is not None]
    for one in details:
        for path, address in sorted((one.log_files or {}).items()):
            if path.startswith("user_logs/"):
                yield from _text_at(path, address).splitlines()


def _text_at(path: str, address: str) -> str:
    """A log's text; its address is a key to it, and is never shown."""
    try:
        answer = httpx.get(address, timeout=_LOG_SECONDS)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise NetworkError(
            "a log cannot be read", code="network.azure", place=path, value=type(error).__name__
        ) from None
    return answer.text
