"""Events as a person reads them: a line that stays, or a position that the next one replaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tunesmith.cli.terminal import Style, clean
from tunesmith.cli.words import count, duration, number, storage
from tunesmith.runs.events import Event

_STAGES = {
    "preparing": "preparing model and data",
    "auditing": "auditing what will train",
    "counting": "counting once in the built model what the technique trains",
    "planned": "planned",
    "meeting": "waiting for other machines",
    "evaluating_base": "measuring the base model",
    "training": "training",
    "evaluating": "measuring the tuned model",
    "exporting": "exporting",
    "reporting": "writing the report",
    "saving": "making a checkpoint usable",
}
_WORK = {
    "download": "downloading",
    "convert": "converting weights",
    "hash": "hashing files",
    "copy": "copying into the registry",
    "fetch": "bringing the version here",
    "push": "sending",
    "pull": "fetching",
    "tokenize": "tokenizing",
    "evaluate": "answering",
}


@dataclass(frozen=True)
class Line:
    """A line that stays. ``ends_position``: the work that was shown is over."""

    text: str
    style: Style | None = None
    ends_position: bool = False


@dataclass(frozen=True)
class Position:
    """How far some work is. ``facts`` stand behind the bar; ``total`` is None where nobody knows it."""

    what: str
    done: int
    total: int | None
    amount: str
    facts: str = ""

    @property
    def text(self) -> str:
        """The position in one line."""
        return "  ".join(part for part in (f"{self.what} {self.amount}", self.facts) if part)


def read_event(event: Event) -> Line | Position | None:
    """What an event says to whoever watches; None for one that says nothing new."""
    data = event.data
    if event.type == "status":
        return _status(data)
    if event.type == "progress":
        return _progress(data)
    if event.type == "step":
        return _step(event.step or 0, data)
    if event.type == "evaluation":
        return Line(f"  step {event.step}: held-out loss {number(data.get('loss'))}")
    if event.type == "checkpoint":
        return Line(f"  step {event.step}: checkpoint saved", "dim")
    if event.type == "warning":
        return Line(f"warning: {clean(str(data.get('message', '')))}", "yellow")
    return None


def _status(data: dict[str, Any]) -> Line | None:
    stage = _STAGES.get(str(data.get("state")))
    if stage is None:
        return None
    detail = clean(str(data.get("detail") or ""))
    return Line(f"{stage}: {detail}" if detail else stage, "bold", ends_position=True)


def _progress(data: dict[str, Any]) -> Position:
    total = data.get("total")
    detail = clean(str(data.get("detail") or ""))
    return position(
        str(data.get("what")), int(data.get("done") or 0), int(total) if total else None, str(data.get("unit")), detail
    )


def position(what: str, done: int, total: int | None, unit: str, detail: str = "") -> Position:
    """How far some work is, by its name in events."""
    return Position(_WORK.get(what, what), done, total, _amount(done, total, unit), detail)


def _amount(done: int, total: int | None, unit: str) -> str:
    if unit == "bytes":
        return f"{storage(done)} of {storage(total)}" if total else storage(done)
    return f"{done:,}/{total:,} {unit}" if total else count(done, unit.removesuffix("s"))


def _step(step: int, data: dict[str, Any]) -> Position:
    total = data.get("total_steps")
    facts = [f"loss {number(data.get('loss'))}"]
    if data.get("tokens_per_second") is not None:
        facts.append(f"{data['tokens_per_second']:,.0f} tokens/s")
    if data.get("memory_bytes") is not None:
        facts.append(storage(data["memory_bytes"]))
    if data.get("eta_seconds") is not None:
        facts.append(f"{duration(round(data['eta_seconds']))} left")
    return Position("step", step, total, f"{step:,}/{total:,}" if total else f"{step:,}", "  ".join(facts))
