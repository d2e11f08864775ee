"""Follow a run on the terminal: what it chose, how it goes, and what Ctrl-C does to it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import orjson

from tunesmith.cli.event_lines import Line, read_event
from tunesmith.cli.progress import View, open_view
from tunesmith.cli.tables import Column, table_lines
from tunesmith.cli.terminal import note
from tunesmith.cli.words import count
from tunesmith.errors import Stopped, TunesmithError
from tunesmith.executors.local.worker import LocalWorker
from tunesmith.jobs.control import pause
from tunesmith.jobs.follow import follow_run, follow_worker
from tunesmith.runs.control import write_wish
from tunesmith.runs.events import Event
from tunesmith.runs.layout import RunFolder

if TYPE_CHECKING:
    from tunesmith.trackers import Tracker


@dataclass
class Interrupts:
    """How often the user, or whoever ends this process, asked to stop."""

    asked: int = 0
    answered: int = field(default=0)


@contextmanager
def counting_interrupts() -> Iterator[Interrupts]:
    """Count Ctrl-C and SIGTERM for a block instead of ending it."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return

    def count_one(_number: int, _frame: FrameType | None) -> None:
        interrupts.asked += 1

    before = {number: signal.signal(number, count_one) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow_on_terminal(
    run: RunFolder,
    launch: Callable[[], LocalWorker | None],
    *,
    after: int = 0,
    trackers: Sequence[Tracker] = (),
) -> None:
    """Show a run until it ends.

    The first Ctrl-C lets the worker save a checkpoint and stop, the second ends it at once.

    Args:
        run: The run.
        launch: Starts its worker; None where a living one is only followed.
        after: Events up to this number were shown before.
        trackers: Get every event.

    Raises:
        TunesmithError: The worker's error.
        Stopped: The run was paused or cancelled.
    """
    working = list(trackers)
    with counting_interrupts() as interrupts, open_view() as view:
        worker = launch()

        def look_at_interrupts() -> None:
            if interrupts.asked > interrupts.answered:
                interrupts.answered += 1
                _interrupt(run, worker, view, interrupts.answered)

        events = (
            follow_run(run, after=after, on_poll=look_at_interrupts)
            if worker is None
            else follow_worker(worker, after=after, on_poll=look_at_interrupts)
        )
        try:
            for event in events:
                _show(run, event, view)
                working = _track(working, event, view)
        except TunesmithError as error:
            # A worker that was ended by the second Ctrl-C could not say so itself.
            if interrupts.answered > 1 and not isinstance(error, Stopped):
                raise Stopped("the worker was ended", code="run.ended", place=run.name) from error
            raise


def _interrupt(run: RunFolder, worker: LocalWorker | None, view: View, times: int) -> None:
    if times == 1 and worker is None:
        view.show(Line("asking the worker to save a checkpoint and stop", "yellow"))
        try:
            pause(run)
        except TunesmithError as error:
            view.show(Line(error.lines()[0], "yellow"))
    elif times == 1:
        view.show(Line("saving a checkpoint and stopping; Ctrl-C again ends the worker at once", "yellow"))
        write_wish(run.control, "pause")
    elif worker is not None:
        view.show(Line("ending the worker", "yellow"))
        worker.terminate()
    else:
        raise Stopped("no longer following; the worker goes on until its checkpoint", code="run.left", place=run.name)


@contextmanager
def open_trackers(run: RunFolder, kinds: Sequence[str]) -> Iterator[list[Tracker]]:
    """Trackers for a run, for a block. They are opened before the worker starts, for opening may fail.

    Raises:
        UsageError: There is no such tracker, or its library is not installed.
    """
    with ExitStack() as stack:
        trackers: list[Tracker] = []
        for kind in kinds:
            from tunesmith.trackers import open_tracker

            trackers.append(open_tracker(kind, run.name, run.path))
            stack.callback(_close, trackers[-1])
        yield trackers


def _close(tracker: Tracker) -> None:
    try:
        tracker.close()
    except TunesmithError as error:
        note(f"warning: {error}", "yellow")


def _track(trackers: list[Tracker], event: Event, view: View) -> list[Tracker]:
    """Hand an event to every tracker; one that fails is left out from then on, and the run goes on."""
    working = []
    for tracker in trackers:
        try:
            tracker.write(event)
        except TunesmithError as error:
            view.show(Line(f"warning: {error}", "yellow"))
        else:
            working.append(tracker)
    return working


def _show(run: RunFolder, event: Event, view: View) -> None:
    if event.type == "artifact" and event.data.get("kind") == "resolved":
        for line in resolved_lines(run.resolved):
            view.show(Line(line))
        return
    shown = read_event(event)
    if shown is not None:
        view.show(shown)


def resolved_lines(path: Path) -> list[str]:
    """The values that a run chose by itself, with their reasons, for stderr."""
    try:
        resolved: dict[str, Any] = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return []
    values = {**resolved.get("portable", {}), **resolved.get("host", {})}
    chosen = {key: item for key, item in values.items() if str(item.get("reason", "")).startswith("auto")}
    rows = [[key, value_text(item.get("value")), reason_text(item)] for key, item in chosen.items()]
    lines = ["chosen values"]
    lines += table_lines(
        [Column(""), Column("", wrap=True), Column("", wrap=True, style="dim")], rows, sys.stderr, "  "
    )
    given = len(values) - len(chosen)
    if given:
        lines.append(f"  and {count(given, 'value')} as given or by default, see {path.name}")
    return lines


def value_text(value: Any) -> str:
    """A resolved value in one line, as short as a recipe would say it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    if isinstance(value, float):
        return f"{value:g}"
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def reason_text(item: dict[str, Any]) -> str:
    """A reason without its leading ``auto:``, which the heading says."""
    return str(item.get("reason", "")).removeprefix("auto").removeprefix(":").strip()
