"""Which trackers there are. A new one is a file beside this one and a row in the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tunesmith.errors import UsageError, missing_extra
from tunesmith.trackers.base import Sink, Tracker
from tunesmith.trackers.mlflow import open_mlflow
from tunesmith.trackers.tensorboard import open_tensorboard
from tunesmith.trackers.wandb import open_wandb

_OPEN: Mapping[str, Callable[[str, Path], Sink]] = {
    "mlflow": open_mlflow,
    "tensorboard": open_tensorboard,
    "wandb": open_wandb,
}
KINDS = tuple(_OPEN)


def open_tracker(kind: str, run_name: str, folder: Path) -> Tracker:
    """A tracker for one attempt of a run; pass it every event, and close it.

    Args:
        kind: One of :data:`KINDS`.
        run_name: What the run is called there.
        folder: The run's folder. What a tracker writes to disk goes into a folder of its kind's name in it.

    Raises:
        UsageError: There is no such tracker, or its library is not installed.
    """
    if kind not in _OPEN:
        raise UsageError(
            "there is no such tracker", code="usage.unknown_tracker", value=kind, hint=f"trackers: {', '.join(KINDS)}"
        )
    try:
        sink = _OPEN[kind](run_name, folder / kind)
    except ModuleNotFoundError as error:
        raise missing_extra(
            f"the tracker {kind} needs a library that is not installed", "trackers", value=error.name
        ) from error
    return Tracker(kind, sink, folder)
