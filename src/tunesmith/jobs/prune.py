"""Remove what killed commands left behind."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import psutil

from tunesmith.executors.local.worker import SCRATCH_PREFIX, is_launched


def prune_scratch() -> int:
    """Remove stage folders whose command and worker are gone; returns how many."""
    removed = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH_PREFIX}*"):
        pid = folder.name.removeprefix(SCRATCH_PREFIX).split("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)) and not is_launched(folder):
            shutil.rmtree(folder, ignore_errors=True)
            removed += not folder.exists()
    return removed
