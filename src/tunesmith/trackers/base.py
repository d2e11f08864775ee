"""What every tracker gets from a run, and the one way in which events become that.

A sink knows one library and no events; :class:`Tracker` knows events and no library. Names are the same everywhere:
``train/loss``, ``validation/loss``, ``report/tuned/accuracy``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from tunesmith.errors import TunesmithError
from tunesmith.runs.atomic import read_json
from tunesmith.runs.events import Event

_STEP_VALUES = ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "memory_bytes", "epoch")
_END_STATES = ("finished", "stopped", "cancelled", "failed")


class Sink(Protocol):
    """One library's side of a tracker."""

    def parameters(self, values: Mapping[str, str]) -> None:
        """What the run was resolved to, as texts."""

    def scalars(self, values: Mapping[str, float], step: int, time_seconds: float) -> None:
        """Finite numbers of one step; ``time_seconds`` is when they were true, since 1970."""

    def end(self, state: str) -> None:
        """Nothing comes after this; ``state`` is the run's last state: finished, stopped, cancelled, failed or open."""


class Tracker:
    """Passes a run's events on to a sink; a context manager, so that the sink is closed whatever happens.

    Args:
        kind: The tracker's name, for messages.
        sink: Where it goes.
        run_folder: Where the paths of the run's artifacts start.
    """

    def __init__(self, kind: str, sink: Sink, run_folder: Path) -> None:
        self._kind = kind
        self._sink = sink
        self._run_folder = run_folder
        self._state = "open"
        self._step = 0
        self._closed = False

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, event: Event) -> None:
        """Pass one event on. Events that say nothing to a tracker are left out.

        Raises:
            TunesmithError: ``tracker.failed``: the library could not take it. The run itself goes on; whoever
                follows it may show the message and stop tracking.
        """
        self._step = event.step or self._step
        with self._telling_errors():
            if event.type == "step":
                self._scalars(event, {f"train/{key}": event.data.get(key) for key in _STEP_VALUES})
            elif event.type == "evaluation":
                self._scalars(event, {"validation/loss": event.data.get("loss")})
            elif event.type == "artifact":
                self._artifact(event)
            elif event.type == "status" and event.data.get("state") in _END_STATES:
                self._state = str(event.data["state"])

    def close(self) -> None:
        """Write what is left and let go of the library. A second call does nothing.

        Raises:
            TunesmithError: ``tracker.failed``, as in :meth:`write`.
        """
        if not self._closed:
            self._closed = True
            with self._telling_errors():
                self._sink.end(self._state)

    def _scalars(self, event: Event, values: Mapping[str, Any]) -> None:
        numbers = {key: float(value) for key, value in values.items() if _is_finite(value)}
        if numbers:
            self._sink.scalars(numbers, self._step, datetime.fromisoformat(event.time).timestamp())

    def _artifact(self, event: Event) -> None:
        if event.data.get("kind") == "resolved":
            self._sink.parameters(parameters_of(read_json(self._run_folder / "resolved.json")))
        elif event.data.get("kind") == "report":
            self._scalars(event, results_of(read_json(self._run_folder / "report.json")))

    @contextmanager
    def _telling_errors(self) -> Iterator[None]:
        try:
            yield
        except TunesmithError:
            raise
        except Exception as error:
            raise TunesmithError(
                f"the tracker {self._kind} could not take what the run wrote",
                code="tracker.failed",
                place=str(self._run_folder),
                value=f"{type(error).__name__}: {error}",
                hint="the run itself goes on, and its folder holds everything",
            ) from error


def parameters_of(resolved: Mapping[str, Any]) -> dict[str, str]:
    """Keys and values of resolved.json as texts, host values included."""
    parts = (resolved.get("portable", {}), resolved.get("host", {}))
    return {key: str(item["value"]) for part in parts for key, item in part.items()}


def results_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """Held-out loss and metrics of every system of report.json."""
    values: dict[str, Any] = {}
    for system in report.get("systems", []):
        measured = {"loss": system.get("loss") or {}, **system.get("metrics", {})}
        values |= {f"report/{system['name']}/{name}": item.get("value") for name, item in measured.items()}
    return values


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
