"""control.json: what a run should do next. The worker reads it at every step, whoever started the worker."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import orjson

from tunesmith.runs.atomic import write_json

Wish = Literal["continue", "pause", "cancel"]


def write_wish(path: Path, wish: Wish) -> None:
    """Ask the run to continue, to pause (save a checkpoint and stop), or to cancel (stop for good)."""
    write_json(path, {"wish": wish})


def read_wish(path: Path) -> Wish:
    """The current wish; a missing or unreadable file means ``continue``."""
    try:
        wish = orjson.loads(path.read_bytes()).get("wish")
    except (FileNotFoundError, orjson.JSONDecodeError, AttributeError):
        return "continue"
    return wish if wish in ("pause", "cancel") else "continue"
