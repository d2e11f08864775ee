"""TensorBoard: event files in the run's folder; ``tensorboard --logdir runs`` shows all runs."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def open_tensorboard(run_name: str, folder: Path) -> TensorBoardSink:
    """Start an event file in ``folder``. TensorBoard names a run by its folder, so ``run_name`` goes unused."""
    del run_name
    with _without_torch():
        from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

    return TensorBoardSink(SummaryWriter(logdir=str(folder)))


@contextmanager
def _without_torch() -> Iterator[None]:
    """tensorboardX imports torch wherever it finds it, and needs it for nothing that is done here."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


class TensorBoardSink:
    """Scalars as they come, the parameters as one table of text."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def parameters(self, values: Mapping[str, str]) -> None:
        """Write one table of text."""
        rows = "".join(f"| {_cell(key)} | {_cell(value)} |\n" for key, value in values.items())
        self._writer.add_text("resolved", f"| key | value |\n|---|---|\n{rows}")

    def scalars(self, values: Mapping[str, float], step: int, time_seconds: float) -> None:
        """Write one point for each value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, walltime=time_seconds)
        self._writer.flush()

    def end(self, state: str) -> None:
        """Close the file; TensorBoard has no state of a run, so it is written as text."""
        self._writer.add_text("state", state)
        self._writer.close()


def _cell(text: str) -> str:
    return html.escape(text).replace("|", "&#124;").replace("\n", " ")
