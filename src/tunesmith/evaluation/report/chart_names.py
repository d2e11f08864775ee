"""Which reports of a chart tell of one model, and what each model is called there.

Reports of one run go together by the run's name: its own and those that were measured of it later. Models that were
named by their folder are other models where other folders have the same name, and go by as much of the path as tells
them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from tunesmith.evaluation.report.schema import Report

Parts = tuple[str, ...]


def model_names(reports: Sequence[Report]) -> list[str]:
    """The model of each report; equal names are one model."""
    names = [report.run for report in reports]
    for run in dict.fromkeys(names):
        places = {at: _folder(report) for at, report in enumerate(reports) if report.run == run}
        folders = _different([parts for parts in places.values() if parts])
        if len(folders) > 1:
            length = next(count for count in range(1, 1 + max(map(len, folders))) if _apart(folders, count))
            for at, parts in places.items():
                # The fullest path that this one may be short for; a report without a folder keeps the run's name.
                full = next((folder for folder in folders if parts and folder[-len(parts) :] == parts), None)
                names[at] = run if full is None else "/".join(full[-length:])
    return names


def _folder(report: Report) -> Parts:
    """The parts of the folder that a model was named by; empty where it was not."""
    parts = PurePath(report.model.name.replace("\\", "/")).parts
    return parts if len(parts) > 1 and parts[-1] == report.run else ()


def _different(folders: Sequence[Parts]) -> list[Parts]:
    """Folders without those that are the end of another one: the same folder named from elsewhere."""
    longest_first = sorted(dict.fromkeys(folders), key=len, reverse=True)
    kept: list[Parts] = []
    for parts in longest_first:
        if not any(other[-len(parts) :] == parts for other in kept):
            kept.append(parts)
    return kept


def _apart(folders: Sequence[Parts], count: int) -> bool:
    return len({folder[-count:] for folder in folders}) == len(folders)
