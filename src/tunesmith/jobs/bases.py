"""What went along with a job that another machine does, its base model above all, brought back to its run here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.runs.atomic import SCRATCH_MARK, telling_output_errors
from tunesmith.runs.layout import RunFolder
from tunesmith.storage.run_store import INPUTS, RunStore, safe_path
from tunesmith.storage.store import Store

_MODEL = f"{INPUTS}/model/"


def bring_base(store: RunStore, run: RunFolder, record: Mapping[str, Any]) -> None:
    """Let the base lie in the run's folder, where the run's manifest names it; what is there already stays.

    An adapter cannot be used without it. A model of the catalog or the hub did not go along and is not brought. Files
    that have not changed here since they were submitted are linked and cost nothing.

    Args:
        store: Where the job's worker has its files.
        run: The run here.
        record: What the run's job.json says.

    Raises:
        OutputError: The run's folder cannot be written.
        NetworkError: The store does not answer.
    """
    _bring(store, run, record, _MODEL)


@contextmanager
def inputs_here(store: RunStore, run: RunFolder, record: Mapping[str, Any]) -> Iterator[None]:
    """Let the rows lie in the run's folder too while the block lasts: what is trained is built anew with them.

    Raises:
        OutputError, NetworkError: As :func:`bring_base`.
    """
    try:
        _bring(store, run, record, f"{INPUTS}/")
        yield
    finally:
        for path in record["inputs"]:
            if not path.startswith(_MODEL):
                run.path.joinpath(*safe_path(path).parts).unlink(missing_ok=True)


def _bring(store: RunStore, run: RunFolder, record: Mapping[str, Any], beginning: str) -> None:
    for path, source in record["inputs"].items():
        place = run.path.joinpath(*safe_path(path).parts)
        if path.startswith(beginning) and not place.is_file():
            with telling_output_errors(place):
                place.parent.mkdir(parents=True, exist_ok=True)
                if not _linked(Path(source), place, record["submitted"]):
                    _fetch(store.store, path, place)


def _linked(source: Path, place: Path, submitted: float) -> bool:
    try:
        if source.stat().st_mtime > submitted:
            return False
        os.link(source, place)
    except FileExistsError:
        return True
    except OSError:
        return False
    return True


def _fetch(store: Store, path: str, place: Path) -> None:
    scratch = place.with_name(f".{place.name}{SCRATCH_MARK}base")
    try:
        store.get(path, scratch)
        scratch.replace(place)
    finally:
        scratch.unlink(missing_ok=True)
