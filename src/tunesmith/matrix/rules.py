"""From measurements to yes or no, for each cell of the page's table, and where an edition of it is contradicted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tunesmith.matrix.cell import Gain, Matrix, Outcome, over_seeds
from tunesmith.matrix.plan import ALONE, Column, Layout, PageRow, RowKind

Answer = Literal["yes", "no", "undecided", "not measured"]
EDITIONS = ("given", "later")
# Two runs of the same differ by a twentieth.
CLEARLY_LESS, CLEARLY_MORE = 0.95, 1.05
# Sharing that pools memory takes a good part away; libraries and activations stay with each process.
POOLED, NOT_POOLED = 0.9, 0.95

RULES: Mapping[RowKind, str] = {
    "quality": "Yes where the interval of the gain over the untuned model lies above 0 in every scenario of the row "
    "that was measured, no where it lies below 0 in one of them, undecided otherwise.",
    "cost": f"Machine time of a training token, against what the column is held against, by the median of what was "
    f"measured: yes up to {CLEARLY_LESS:g} of it, no from {CLEARLY_MORE:g} on, undecided between. Processes that share "
    "a machine cost what one costs that has it alone.",
    "memory": f"Peak memory of a process, against what the column is held against, by the median: yes up to "
    f"{CLEARLY_LESS:g} of it, no from {CLEARLY_MORE:g} on, undecided between.",
    "parameters": "Trained parameters, against what the column is held against: yes where they are fewer, else no.",
    "pooled": f"Peak memory of each of two processes, on average: of DeepSpeed and ZeRO against two processes of plain "
    f"data parallelism, of techniques under that against one process alone. Yes up to {POOLED:g} of it, no from "
    f"{NOT_POOLED:g} on, undecided between.",
}


@dataclass(frozen=True)
class Mark:
    """One cell of the table: the answer, the number that it follows from, and the editions that it contradicts."""

    row: str
    column: str
    answer: Answer
    number: str
    given: bool
    later: bool

    @property
    def contradicted(self) -> tuple[str, ...]:
        """Editions whose mark is the other one; none where nothing is decided."""
        if self.answer not in ("yes", "no"):
            return ()
        return tuple(edition for edition in EDITIONS if getattr(self, edition) != (self.answer == "yes"))


def derive_marks(layout: Layout, matrix: Matrix) -> list[Mark]:
    """The whole table, row by row."""
    return [
        Mark(row.id, name, *_answer(layout, matrix, row, layout.column(name)), given=given, later=later)
        for row in layout.rows
        for name, given, later in zip(layout.marks, row.given, row.later, strict=True)
    ]


def gains_of(layout: Layout, matrix: Matrix, row: str, column: str) -> dict[str, Gain]:
    """The gains of a column by scenario, of those scenarios that belong to a row."""
    found = {
        scenario.id: gain_of_scenario(matrix, scenario.id, column)
        for scenario in layout.scenarios
        if scenario.row == row
    }
    return {name: gain for name, gain in found.items() if gain is not None}


def gain_of_scenario(matrix: Matrix, scenario: str, column: str) -> Gain | None:
    """The gain of a column in one scenario over all seeds; None where it has not run."""
    return over_seeds([one.gain for one in matrix.of("quality", column, scenario) if one.gain])


def gain_text(gain: Gain) -> str:
    """A gain with its interval, by as many digits as show on which side of 0 it lies."""
    ends = [abs(end) for end in (gain.low, gain.high) if end]
    digits = max(3, *(math.ceil(-math.log10(end)) for end in ends)) if gain.decided and ends else 3
    few = "" if gain.enough else ", too few rows"
    return f"{gain.value:+.{digits}f} ({gain.low:+.{digits}f} to {gain.high:+.{digits}f}{few})"


def decided_text(gain: Gain) -> str:
    """A gain with its interval, and whether it leaves open that there is none."""
    return gain_text(gain) + ("" if gain.decided else ", undecided")


def tells_apart(one: Gain, other: Gain) -> bool:
    """Whether two gains differ by more than their intervals allow for; of the same rows, so with room to spare."""
    if not (one.enough and other.enough):
        return False
    own, others = ((gain.high - gain.low) / 2 for gain in (one, other))
    return abs(one.value - other.value) > math.hypot(own, others)


def _answer(layout: Layout, matrix: Matrix, row: PageRow, column: Column) -> tuple[Answer, str]:
    if row.kind == "quality":
        return _quality(gains_of(layout, matrix, row.id, column.id))
    ratios = list(_ratios(matrix, row.kind, column))
    if not ratios:
        return "not measured", ""
    ratio = statistics.median(ratios)
    if row.kind == "parameters":
        return "yes" if ratio < 1 else "no", f"{ratio:.4f}"
    # What is shown decides, so that nobody reads a number that leads to the other answer.
    shown = f"{ratio:.2f}"
    less, more = (POOLED, NOT_POOLED) if row.kind == "pooled" else (CLEARLY_LESS, CLEARLY_MORE)
    return "yes" if float(shown) <= less else "no" if float(shown) >= more else "undecided", shown


def _quality(gains: Mapping[str, Gain]) -> tuple[Answer, str]:
    if not gains:
        return "not measured", ""
    number = "; ".join(f"{name} {gain_text(gain)}" for name, gain in gains.items())
    if any(gain.is_worse for gain in gains.values()):
        return "no", number
    return "yes" if all(gain.is_better for gain in gains.values()) else "undecided", number


_NUMBERS: Mapping[RowKind, Callable[[Outcome], float]] = {
    "cost": lambda outcome: outcome.seconds_per_token,
    "memory": lambda outcome: outcome.process_memory_bytes,
    "parameters": lambda outcome: outcome.trained_parameters,
    "pooled": lambda outcome: outcome.process_memory_bytes,
}


def _ratios(matrix: Matrix, kind: RowKind, column: Column) -> Iterator[float]:
    """A column's numbers over those that it is held against, run by run where both have run."""
    number = _NUMBERS[kind]
    for own, other in _pairs(matrix, kind, column):
        yield number(own) / number(other)


def _pairs(matrix: Matrix, kind: RowKind, column: Column) -> Iterator[tuple[Outcome, Outcome]]:
    if kind == "pooled" or column.by_pooled:
        alone = kind == "pooled" and column.pooled_against == ALONE
        other = column.id if alone else column.pooled_against or ""
        yield from zip(matrix.of("pooled", column.id), matrix.of("alone" if alone else "pooled", other), strict=False)
        return
    held_against = {
        (one.cell.scenario, one.cell.seed): one.outcome
        for one in matrix.results
        if one.cell.kind == "quality" and one.cell.column == column.against
    }
    for one in matrix.results:
        if one.cell.kind == "quality" and one.cell.column == column.id:
            other_outcome = held_against.get((one.cell.scenario, one.cell.seed))
            if one.outcome is not None and other_outcome is not None:
                yield one.outcome, other_outcome
