"""What an evaluation leaves: its report in the storage, the numbers for lists, and the tokens that it used."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Row

from tunesmith.service.context import Context
from tunesmith.service.errors import not_found
from tunesmith.service.shared.naming import Named, offered

_REPORTS = {"json": "report.json", "html": "report.html", "md": "report.md"}
_MEDIA = {"json": "application/json", "html": "text/html; charset=utf-8", "md": "text/markdown; charset=utf-8"}
_TUNED = "tuned"


def keep_reports(context: Context, row: Row[Any], named: Named, folder: Path) -> None:
    """Bring the report that a worker wrote into the storage; a second time, after a crash, does nothing twice.

    Raises:
        OutputError, NetworkError: The storage cannot be written.
    """
    for name in _REPORTS.values():
        text = without_places(context, named, (folder / name).read_text(encoding="utf-8"))
        context.storage.write(_place(row.project_id, row.id, name), text.encode())


def read_report(context: Context, row: Row[Any], form: str) -> tuple[str, str]:
    """The report of an evaluation, and its media type.

    Raises:
        ApiError: 404: it has none yet, or none any more.
    """
    if row.state != "succeeded":
        # It may have been cancelled at the moment at which its report came.
        raise not_found("report of the evaluation", row.id, "evaluation_id")
    try:
        content = context.storage.read(_place(row.project_id, row.id, _REPORTS[form]))
    except FileNotFoundError as error:
        raise not_found("report of the evaluation", row.id, "evaluation_id") from error
    return content.decode(), _MEDIA[form]


def remove_reports(context: Context, project_id: str, name: str) -> None:
    """Remove the report of an evaluation, in all its forms."""
    for file in _REPORTS.values():
        context.storage.remove(_place(project_id, name, file))


def result_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a report, without answers."""
    kept = ("name", "label", "loss", "perplexity", "metrics")
    return {
        "task": report["task"],
        "primary_metric": report["primary_metric"],
        "systems": [{key: system[key] for key in kept if system.get(key)} for system in report["systems"]],
        "verdict": report["verdict"],
        "rows": report["data"]["validation"]["used_rows"],
    }


def used_by(report: Mapping[str, Any], named: Named) -> dict[str, tuple[int, int]]:
    """Tokens in and out by model: a base that is measured beside a tuned model is used by itself."""
    used: dict[str, tuple[int, int]] = {}
    for system in report["systems"]:
        model = named.name if system["name"] == _TUNED else named.base
        read, written = used.get(model, (0, 0))
        used[model] = (read + system["tokens"]["read"], written + system["tokens"]["written"])
    return used


def without_places(context: Context, named: Named, text: str) -> str:
    """A text without the folders of this machine and the registry's own names."""
    folder = offered(context)[named.base].folder if named.base in offered(context) else None
    names = {str(context.settings.data_folder.absolute()): "data"}
    if folder is not None:
        names = {str(folder): named.base, **names}
    if named.address is not None:
        names[named.address] = named.name
    for found, told in names.items():
        text = text.replace(found, told).replace(html.escape(found), told)
    return text


def _place(project_id: str, name: str, file: str) -> str:
    return f"projects/{project_id}/evaluations/{name}/{file}"
