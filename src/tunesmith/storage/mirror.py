"""The submitter's side of a run in a store: put it there, and read along in a folder of one's own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from tunesmith.errors import RunError
from tunesmith.runs.atomic import SCRATCH_MARK, telling_output_errors
from tunesmith.runs.events import read_events
from tunesmith.runs.layout import RunFolder
from tunesmith.storage.run_store import FILES, JOB, RECIPE, RunStore, safe_path


def put_run(run: RunStore, recipe: str, inputs: Mapping[str, Path], job: Mapping[str, Any]) -> bool:
    """Put a run into its store; False where it is there already, by the same key.

    Args:
        run: Where.
        recipe: The recipe's text; the files that it names are ``inputs``.
        inputs: Files on this machine by their path within the run.
        job: What was asked for; it has a ``key``, and is written last.

    Raises:
        RunError: ``run.exists``: another run lies there.
        NetworkError: The store does not answer.
    """
    there = run.read_json(JOB)
    if there is not None:
        if there.get("key") != job["key"]:
            raise RunError(
                "another run lies there", code="run.exists", place=run.store.url, hint="choose another --name"
            )
        return False
    for path, source in inputs.items():
        run.store.put(source, str(safe_path(path)))
    run.store.write(RECIPE, recipe.encode())
    # Of two that put the same at once, both have written the same files.
    return run.store.create(JOB, orjson.dumps(dict(job)))


def pull_events(run: RunStore, target: RunFolder) -> int:
    """Add the events that are new in the store to the ones here; how many came."""
    last = max((event.seq for event in read_events(target.events)), default=0)
    count = 0
    for path in run.event_pieces(after=last):
        lines = run.store.read(path)
        with telling_output_errors(target.events), target.events.open("ab") as file:
            file.write(lines)
        count += lines.count(b"\n")
    return count


def pull_files(run: RunStore, target: RunFolder, wanted: Callable[[str], bool]) -> list[str]:
    """Bring files of the run here that are not here as they are there; their paths within the run.

    Each appears whole, and the run's manifest last.
    """
    listed = run.files()
    came = []
    for path in sorted(filter(wanted, listed), key=lambda one: (one == "manifest.json", one)):
        place = target.path.joinpath(*safe_path(path).parts)
        if place.is_file() and (place.stat().st_size, place.stat().st_mtime_ns) == listed[path]:
            continue
        scratch = place.with_name(f".{place.name}{SCRATCH_MARK}pull")
        own = place.with_name(f".{place.name}{SCRATCH_MARK}own")
        with telling_output_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        try:
            run.store.get(f"{FILES}/{path}", scratch)
            if scratch.stat().st_nlink > 1:
                # A folder hands out links, and a link's time is that of the other name too.
                shutil.copyfile(scratch, own)
                own.replace(scratch)
            os.utime(scratch, ns=(listed[path][1],) * 2)
            scratch.replace(place)
        except FileNotFoundError:
            # It has gone since the list was written.
            continue
        finally:
            scratch.unlink(missing_ok=True)
            own.unlink(missing_ok=True)
        came.append(path)
    return came
