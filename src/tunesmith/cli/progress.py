"""Show on stderr how far the work is: a bar on a terminal, a line every few seconds anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from tunesmith.cli.event_lines import Line, Position, read_event
from tunesmith.cli.terminal import Style, is_live, note, paint

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from tunesmith.runs.events import Event

LINE_SECONDS = 5.0


class View(Protocol):
    """Where progress is shown."""

    def show(self, shown: Line | Position) -> None:
        """Show a line that stays, or move the position."""

    def close(self) -> None:
        """Take the position away."""


@contextmanager
def open_view() -> Iterator[View]:
    """The view that fits stderr, for a block."""
    view: View = _BarView() if is_live() else _LineView()
    try:
        yield view
    finally:
        view.close()


def showing(view: View) -> Callable[[Event], None]:
    """What a stage calls with its events so that a view shows them."""

    def on_event(event: Event) -> None:
        shown = read_event(event)
        if shown is not None:
            view.show(shown)

    return on_event


class _LineView:
    """Plain lines: positions at most every few seconds, and the last one of each kind of work."""

    def __init__(self) -> None:
        self._shown_at = float("-inf")
        self._held: Position | None = None

    def show(self, shown: Line | Position) -> None:
        if isinstance(shown, Line):
            self._flush()
            note(shown.text, shown.style)
            return
        if self._held is not None and self._held.what != shown.what:
            self._flush()
        self._held = shown
        now = time.monotonic()
        if now - self._shown_at >= LINE_SECONDS or shown.done == shown.total:
            self._flush()
            self._shown_at = now

    def close(self) -> None:
        self._flush()

    def _flush(self) -> None:
        if self._held is not None:
            note(self._held.text)
            self._held = None


class _BarView:
    """One bar, drawn in place; lines that stay go above it."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._what = ""

    def show(self, shown: Line | Position) -> None:
        if isinstance(shown, Line):
            if shown.ends_position:
                self.close()
            self._print(shown.text, shown.style)
            return
        if self._progress is None:
            self._progress = _bar()
            self._progress.start()
        if self._task is None or self._what != shown.what:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._what = shown.what
            self._task = self._progress.add_task(shown.what, amount="", facts="")
        self._progress.update(
            self._task, completed=shown.done, total=shown.total, amount=shown.amount, facts=shown.facts
        )

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None

    def _print(self, text: str, style: Style | None) -> None:
        if self._progress is None:
            note(text, style)
            return
        from rich.text import Text

        self._progress.console.print(Text.from_ansi(paint(text, style, sys.stderr)), soft_wrap=True)


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    narrow = Column(no_wrap=True)
    facts = Column(no_wrap=True, overflow="ellipsis")
    return Progress(
        TextColumn("{task.description}", table_column=narrow, markup=False),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6)),
        TextColumn("{task.fields[amount]}", table_column=narrow, markup=False),
        TextColumn("{task.fields[facts]}", table_column=facts, markup=False),
        console=Console(stderr=True, highlight=False),
        expand=True,
        transient=True,
        refresh_per_second=4,
    )
