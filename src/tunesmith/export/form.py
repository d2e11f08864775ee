"""What a form of export is: how it is written, and how its own runtime reads it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import Problem
from tunesmith.export.compare_text import TextRows
from tunesmith.export.runtime import ScoreRuntime, TextRuntime
from tunesmith.export.source import Source


def _silent(_message: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Options:
    """How an export is made.

    Attributes:
        precision: One of the form's.
        scratch: A folder for what lies between model and result; it is removed afterwards.
        provider: ONNX Runtime's execution provider by its short name.
        target: The hardware that the result is made for, where it needs another form.
        longest: Tokens of the longest text with its answer that is checked.
        calibration: Rows that fix the scales of eight-bit activations.
        threads: Processor threads of runtimes.
        say: Told what is done.
        warn: Told what is done otherwise than asked.
    """

    precision: str
    scratch: Path
    provider: str = "cpu"
    target: str | None = None
    longest: int = 512
    calibration: Sequence[Sequence[int]] = ()
    threads: int = 1
    say: Callable[[str], None] = _silent
    warn: Callable[[str], None] = _silent


@dataclass(frozen=True)
class TextForm:
    """A form for models that write.

    ``require`` refuses what cannot be before anything is written, ``write`` fills a folder and gives facts for the
    record, ``open`` loads the folder. ``together`` says what is wrong where several adapters lie in it, by the answers
    that each gave alone.
    """

    require: Callable[[Source, Options], None]
    write: Callable[[Source, Path, Options], dict[str, Any]]
    open: Callable[[Path, Source, Options], AbstractContextManager[TextRuntime]]
    together: Callable[[Path, Mapping[str, Sequence[Sequence[int]]], TextRows, Options], list[Problem]] | None = None


@dataclass(frozen=True)
class ScoreForm:
    """Likewise for heads and encoders."""

    require: Callable[[Source, Options], None]
    write: Callable[[Source, Path, Options], dict[str, Any]]
    open: Callable[[Path, Source, Options], AbstractContextManager[ScoreRuntime]]
