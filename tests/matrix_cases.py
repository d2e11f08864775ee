"""Matrices made by hand, for the tests of what is read out of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.matrix.cell import Failure, Gain, Matrix, Outcome, Result
from tunesmith.matrix.plan import Cell, Kind, Mode

GIB = 2**30
BUDGET = "65s"


def gain(value: float, half: float = 0.05, *, enough: bool = True) -> Gain:
    """A gain whose interval reaches as far to both sides."""
    return Gain(value=value, low=value - half, high=value + half, enough=enough)


def outcome(**values: Any) -> Outcome:
    """The numbers of a run: a thousand tokens a second, 2 GiB, a million weights."""
    usual: dict[str, Any] = {
        "metric": "accuracy",
        "rows": 100,
        "base": 0.2,
        "tuned": 0.5,
        "gain": gain(0.3),
        "base_loss": 2.0,
        "tuned_loss": 1.0,
        "steps": 20,
        "tokens": 20_000,
        "tokens_per_second": 1000.0,
        "training_seconds": 20.0,
        "total_seconds": 36.0,
        "peak_memory_bytes": 2 * GIB,
        "trained_parameters": 1_000_000,
        "validation": ((0.0, 2.0), (10.0, 1.5), (20.0, 1.0)),
    }
    return Outcome(**{**usual, **values})


def cell(
    scenario: str, column: str, kind: Kind = "quality", seed: int = 0, settings: Sequence[str] = ("task=text",)
) -> Cell:
    """A cell with a setting that means nothing to the rules."""
    return Cell(kind=kind, scenario=scenario, column=column, seed=seed, settings=tuple(settings))


def ran(scenario: str, column: str, *, kind: Kind = "quality", seed: int = 0, **values: Any) -> Result:
    """A cell that ended well."""
    return Result(cell=cell(scenario, column, kind, seed), outcome=outcome(**values), seconds=40.0)


def shared(column: str, gibibytes: float, *, kind: Kind = "pooled", **values: Any) -> Result:
    """A cell of the runs that show what sharing takes, with the memory of each process."""
    size = round(gibibytes * GIB)
    return ran("problems", column, kind=kind, peak_memory_bytes=size, rank_memory_bytes=(size, size), **values)


def failed(
    scenario: str,
    column: str,
    message: str,
    hint: str | None = None,
    *,
    kind: Kind = "quality",
    seed: int = 0,
    value: str | None = None,
) -> Result:
    """A cell that has no numbers."""
    return Result(
        cell=cell(scenario, column, kind, seed),
        failure=Failure(code="data.made_up", message=message, value=value, hint=hint),
        seconds=4.0,
    )


def matrix_of(*results: Result, **values: Any) -> Matrix:
    """A matrix with results; scenarios, columns and pooled columns are those of the results."""
    quality = [one.cell for one in results if one.cell.kind == "quality"]
    usual: dict[str, Any] = {
        "model": "smollm2-135m-instruct",
        "mode": Mode(
            scenarios=tuple(dict.fromkeys(one.scenario for one in quality)),
            columns=tuple(dict.fromkeys(one.column for one in quality)),
            pooled=tuple(dict.fromkeys(one.cell.column for one in results if one.cell.kind != "quality")),
            seeds=1 + max((one.cell.seed for one in results), default=0),
            budget=BUDGET,
        ),
        "commands": ("tunesmith matrix",),
        "results": results,
    }
    return Matrix(**{**usual, **values})
