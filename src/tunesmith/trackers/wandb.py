"""Weights & Biases: offline in the run's folder, unless WANDB_API_KEY or WANDB_MODE says otherwise.

What was written offline is sent by ``wandb sync RUN_FOLDER/wandb/wandb/offline-run-*``. The project is WANDB_PROJECT,
or ``tunesmith``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.runs.atomic import telling_output_errors

_GOOD_STATES = ("finished", "stopped", "open")


def open_wandb(run_name: str, folder: Path) -> WandbSink:
    """Start a W&B run."""
    # Nobody else learns of a run unless the user says so; the library reports to its makers otherwise, offline too.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    with telling_output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        mode=_mode(),
        dir=str(folder),
        project=os.environ.get("WANDB_PROJECT", "tunesmith"),
        name=run_name,
        # Only what the run's events say: no console, no code, no other measurements of this machine.
        settings=wandb.Settings(
            silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True
        ),
    )
    return WandbSink(run)


def _mode() -> Any:
    """What WANDB_MODE says; the library itself refuses a word that it does not know."""
    return os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")


class WandbSink:
    """Config and history of one W&B run."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def parameters(self, values: Mapping[str, str]) -> None:
        """Set the run's config."""
        self._run.config.update(dict(values), allow_val_change=True)

    def scalars(self, values: Mapping[str, float], step: int, time_seconds: float) -> None:
        """Log one row of the history; W&B keeps several calls of one step together."""
        self._run.log({**values, "time_seconds": time_seconds}, step=step)

    def end(self, state: str) -> None:
        """Finish the run; W&B shows it as crashed when it was cancelled or failed."""
        self._run.summary["state"] = state
        self._run.finish(exit_code=0 if state in _GOOD_STATES else 1)
