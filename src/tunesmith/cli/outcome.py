"""The end of a training on the terminal: the before/after table, or what to do when it did not finish."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

from tunesmith.catalog.heads import read_head
from tunesmith.cli.following import follow_on_terminal, open_trackers
from tunesmith.cli.options import run_argument
from tunesmith.cli.report_table import metrics_of, print_report
from tunesmith.cli.terminal import note, out, out_json, short_path
from tunesmith.errors import Stopped, TunesmithError
from tunesmith.executors.local.worker import LocalWorker
from tunesmith.jobs.control import discard_if_refused
from tunesmith.jobs.states import run_status
from tunesmith.runs.atomic import read_json
from tunesmith.runs.layout import RunFolder


def watch(
    run: RunFolder,
    launch: Callable[[], LocalWorker | None],
    *,
    after: int = 0,
    track: Sequence[str] = (),
    new: bool = False,
) -> None:
    """Start or find a run's worker, and follow it to its end.

    Args:
        run: The run.
        launch: Starts the worker; None where a living one is only followed.
        after: Events up to this number are old.
        track: Trackers that get every event.
        new: The run was made by this command; it is removed again where its input is refused before any training.

    Raises:
        TunesmithError: The worker's error.
        Stopped: The run was paused or cancelled; the hint says how to go on.
    """
    try:
        with open_trackers(run, track) as trackers:
            follow_on_terminal(run, launch, after=after, trackers=trackers)
    except Stopped as stopped:
        again = stopped.code not in ("run.cancelled", "run.left")
        step = run_status(run).step
        raise Stopped(
            f"{stopped.message} after step {step}" if step and again else stopped.message,
            code=stopped.code,
            place=run.name,
            hint=f"continue with `tunesmith runs resume {quoted(run)}`" if again else None,
        ) from stopped
    except TunesmithError as error:
        if new and discard_if_refused(run, error):
            note("the input was refused before training; no run folder was kept")
        elif run.checkpoints.exists():
            note(f"continue from the last checkpoint with: tunesmith runs resume {quoted(run)}")
        raise


def quoted(run: RunFolder) -> str:
    """The run as an argument of a shell command."""
    return shlex.quote(run_argument(run))


def outcome_json(run: RunFolder) -> dict[str, Any]:
    """A run's state, places and report as plain data."""
    report = read_json(run.report_json) if run.report_json.exists() else None
    places = {
        "adapter": run.adapter,
        "model": run.model,
        "report_json": run.report_json,
        "report_markdown": run.report_markdown,
        "report_html": run.report_html,
        "service_model": run.service_model,
    }
    return {
        "run": run.name,
        "path": str(run.path),
        **run_status(run).to_json(),
        "metrics": metrics_of(report) if report else {},
        "files": {name: str(path) for name, path in places.items() if path.exists()},
        "report": report,
    }


def print_outcome(run: RunFolder, as_json: bool, next_commands: Sequence[str] | None = None) -> None:
    """Print the before/after table, where the report and the result are, and what to do next."""
    if as_json:
        out_json(outcome_json(run))
        return
    if run.report_json.exists():
        out()
        print_report(read_json(run.report_json))
    out()
    if run.service_model.exists():
        told = read_json(run.service_model)
        out(f"model    {told['name']} at {told.get('base_url') or told.get('endpoint')}")
    for label, path in (("adapter", run.adapter), ("model", run.model), ("report", run.report_html)):
        if path.exists():
            out(f"{label:<8} {short_path(path)}")
    out()
    out("next", "bold")
    for command in next_commands or suggestions(run):
        out(f"  {command}")


def suggestions(run: RunFolder) -> list[str]:
    """The next commands to try with a finished run."""
    name = quoted(run)
    if run.service_model.exists():
        # The weights are not here.
        return [f"tunesmith jobs logs {name}", f"tunesmith runs show {name}"]
    return [
        *_ways_to_ask(run, name),
        f"tunesmith runs show {name}",
        f"tunesmith eval {name} --data MORE_ROWS.jsonl",
    ]


def _ways_to_ask(run: RunFolder, name: str) -> list[str]:
    head = read_head(run.adapter if run.adapter.exists() else run.model)
    if head is not None:
        marks_answers = head.kind == "question_answering"
        return [f"tunesmith classify {name} " + ("QUESTION --context TEXT" if marks_answers else "TEXT")]
    resolved = read_json(run.resolved) if run.resolved.exists() else {}
    objective = resolved.get("portable", {}).get("objective", {}).get("value") or {}
    # Nobody talks to a model with encoder and decoder here.
    return [] if objective.get("name") == "seq2seq" else [f"tunesmith chat {name} --compare"]
