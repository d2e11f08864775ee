"""What goes to the terminal: data to stdout, everything else to stderr, with colour only where it is wanted."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, Literal, TextIO

import orjson

Style = Literal["bold", "dim", "red", "green", "yellow", "cyan"]

_CODES: dict[Style, str] = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
# Text of files and models may hold what moves the cursor or renames the window; only newline and tab pass.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def has_colour(stream: TextIO) -> bool:
    """Whether a stream is a terminal that may be coloured."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def is_live() -> bool:
    """Whether progress on stderr may be drawn in place."""
    return has_colour(sys.stderr)


def width(stream: TextIO) -> int | None:
    """Columns of a terminal; None where there is none, so that nothing is wrapped or cut."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def clean(text: str) -> str:
    """The text without control characters."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def paint(text: str, style: Style | None, stream: TextIO) -> str:
    """The text in a style, where the stream has colour."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style and text and has_colour(stream) else text


def out(text: str = "", style: Style | None = None) -> None:
    """Print a line of data."""
    print(paint(text, style, sys.stdout), flush=True)


def note(text: str = "", style: Style | None = None) -> None:
    """Print a line about the work to stderr."""
    print(paint(text, style, sys.stderr), file=sys.stderr, flush=True)


def out_json(data: Any) -> None:
    """Print one JSON document to stdout."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    sys.stdout.write(orjson.dumps(data, option=options, default=str).decode() + "\n")
    sys.stdout.flush()


def short_path(path: Path) -> str:
    """The path from the current folder where it lies below it, else whole."""
    here = Path.cwd()
    full = path if path.is_absolute() else here / path
    return str(full.relative_to(here)) if full.is_relative_to(here) else str(full)
