"""What came of one run of a matrix, taken out of its report, and the file that holds all of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunesmith.errors import DataError
from tunesmith.matrix.plan import Cell, Kind, Mode

FORMAT = 1
# Half of a 95 % interval in standard errors, of a mean of 2, 3, ... numbers; more than ten are taken for ten.
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


class _Part(BaseModel):
    """A part of matrix.json; what later versions add is kept."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Failure(_Part):
    """Why a cell has no numbers."""

    code: str
    message: str
    value: str | None = None
    hint: str | None = None


class Gain(_Part):
    """How much better the tuned model is than the base, above 0 where better, with its 95 % interval.

    ``enough`` is False where the rows were too few for the report to decide anything.
    """

    value: float
    low: float
    high: float
    enough: bool = True

    @property
    def is_better(self) -> bool:
        """Whether the interval lies above 0."""
        return self.enough and self.low > 0

    @property
    def is_worse(self) -> bool:
        """Whether the interval lies below 0."""
        return self.enough and self.high < 0

    @property
    def decided(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.is_better or self.is_worse


class Outcome(_Part):
    """The numbers of a run that ended well. ``validation`` has seconds of training and held-out loss."""

    metric: str
    rows: int | None = None
    base: float | None = None
    few_shot: float | None = None
    tuned: float | None = None
    gain: Gain | None = None
    base_loss: float | None = None
    tuned_loss: float | None = None
    steps: int
    tokens: int
    tokens_per_second: float
    training_seconds: float
    total_seconds: float
    peak_memory_bytes: int
    rank_memory_bytes: tuple[int, ...] = ()
    trained_parameters: int
    total_parameters: int | None = None
    validation: tuple[tuple[float, float], ...] = ()

    @property
    def process_memory_bytes(self) -> float:
        """Peak memory of a process, on average over those that trained."""
        return statistics.fmean(self.rank_memory_bytes or (self.peak_memory_bytes,))

    @property
    def seconds_per_token(self) -> float:
        """Of training, on all devices together."""
        return 1 / self.tokens_per_second

    def seconds_to(self, loss: float) -> float | None:
        """Seconds of training until the held-out loss was as low as this, between two measurements; None: never."""
        if self.base_loss is not None and self.base_loss <= loss:
            return 0.0
        before: tuple[float, float] | None = None if self.base_loss is None else (0.0, self.base_loss)
        for seconds, found in self.validation:
            if found <= loss:
                if before is None:
                    return seconds
                share = (before[1] - loss) / (before[1] - found)
                return before[0] + share * (seconds - before[0])
            before = (seconds, found)
        return None


class Result(_Part):
    """A cell with what came of it: either numbers or why there are none. ``conditions`` say where it ran."""

    cell: Cell
    outcome: Outcome | None = None
    failure: Failure | None = None
    seconds: float = 0.0
    conditions: Mapping[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What a run cost as a whole, measuring included, and what a token of its training; in the price's currency."""

    run: float
    token: float


class Matrix(_Part):
    """A whole matrix: what was asked for, and the cells that have run so far.

    ``data`` has hashes by scenario, ``own_data`` the scenarios whose data was given to the command. ``price`` has
    ``price_per_hour``, ``currency``, ``price_date``, ``price_source``, and the ``device`` that it is of: an hour of one
    GPU (``cuda``), or of the whole machine (``cpu``). Files of earlier versions do not say which.
    """

    format: int = FORMAT
    model: str
    mode: Mode
    commands: tuple[str, ...]
    data: Mapping[str, Mapping[str, str]] = Field(default_factory=dict)
    own_data: tuple[str, ...] = ()
    price: Mapping[str, Any] | None = None
    results: tuple[Result, ...] = ()

    def of(self, kind: Kind, column: str, scenario: str | None = None) -> list[Outcome]:
        """Outcomes of a column's cells of one kind, of all seeds."""
        return [
            one.outcome
            for one in self.results
            if one.outcome is not None
            and one.cell.kind == kind
            and one.cell.column == column
            and scenario in (None, one.cell.scenario)
        ]

    def costs(self, column: str, scenario: str) -> list[Cost]:
        """What each run of a column's quality cells cost; nothing without a price.

        Nothing either of runs on several devices under a price that does not say what it is of.
        """
        price = self.price
        if price is None:
            return []
        rate, device = price["price_per_hour"] / 3600, price.get("device")
        paid = [
            (one.outcome, rate * (1 if device == "cpu" else one.cell.devices))
            for one in self.results
            if one.outcome and (one.cell.kind, one.cell.column, one.cell.scenario) == ("quality", column, scenario)
            if device or one.cell.devices == 1
        ]
        return [
            Cost(run=a_second * one.total_seconds, token=a_second * one.seconds_per_token) for one, a_second in paid
        ]

    def has(self, cell: Cell) -> bool:
        """Whether a cell has run to its end, with the very settings that it has now."""
        return any(one.outcome is not None and one.cell == cell for one in self.results)

    def with_result(self, result: Result) -> Matrix:
        """The matrix with one more cell, or with another result of one."""
        others = tuple(one for one in self.results if one.cell.name != result.cell.name)
        return self.model_copy(update={"results": (*others, result)})

    def failed(self, kind: Kind, column: str, scenario: str) -> list[Result]:
        """The cells of a column that were tried and have no numbers."""
        return [
            one
            for one in self.results
            if one.failure and (one.cell.kind, one.cell.column, one.cell.scenario) == (kind, column, scenario)
        ]


def read_matrix(path: Path) -> Matrix:
    """Read a matrix.json.

    Raises:
        DataError: ``data.matrix``: it is none, is broken, or is of a later version.
    """
    hint = "name another file, or remove this one"
    try:
        found = orjson.loads(path.read_bytes())
        if found["format"] > FORMAT:
            value = f"format {found['format']}, known up to {FORMAT}"
            message, hint = "a later version wrote this matrix", f"{hint}, or upgrade Tunesmith"
            raise DataError(message, code="data.matrix", place=str(path), value=value, hint=hint)
        return Matrix.model_validate(found)
    except (OSError, orjson.JSONDecodeError, ValidationError, KeyError, TypeError) as error:
        value = _first_fault(error)
        raise DataError("this is no matrix", code="data.matrix", place=str(path), value=value, hint=hint) from error


def _first_fault(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0]


def outcome_of(report: Mapping[str, Any]) -> Outcome:
    """The numbers of a run's report that a matrix is about."""
    metric = report["primary_metric"] or "loss"
    systems = {system["name"]: system for system in report["systems"]}
    values = {name: _value(system, metric) for name, system in systems.items()}
    cost, curves = report["cost"], report["curves"]
    return Outcome(
        metric=metric,
        rows=((report["data"] or {}).get("validation") or {}).get("used_rows"),
        base=values.get("base"),
        few_shot=values.get("few_shot"),
        tuned=values.get("tuned"),
        gain=_gain(report, systems, metric),
        base_loss=_value(systems.get("base", {}), "loss"),
        tuned_loss=_value(systems.get("tuned", {}), "loss"),
        steps=cost["steps"],
        tokens=cost["tokens"],
        tokens_per_second=cost["tokens_per_second"],
        training_seconds=sum(point["seconds"] or 0.0 for point in curves["train"]),
        total_seconds=cost["wall_seconds"]["total"],
        peak_memory_bytes=cost["peak_memory_bytes"],
        rank_memory_bytes=tuple(cost.get("rank_memory_bytes") or ()),
        trained_parameters=cost["trained_parameters"],
        total_parameters=cost.get("total_parameters"),
        validation=_validation(curves),
    )


def over_seeds(gains: Sequence[Gain]) -> Gain | None:
    """One gain of several trainings on the same rows: their mean; None of none.

    The square of half the interval is that of the rows, which seeds do not make smaller, and that of the seeds: their
    standard error times Student's factor for so few of them.
    """
    if not gains:
        return None
    value = statistics.fmean(gain.value for gain in gains)
    if len(gains) == 1:
        return gains[0]
    of_rows = statistics.fmean(((gain.high - gain.low) / 2) ** 2 for gain in gains)
    factor = STUDENT[min(len(gains), len(STUDENT) + 1) - 2]
    of_seeds = factor**2 * statistics.variance(gain.value for gain in gains) / len(gains)
    half: float = (of_rows + of_seeds) ** 0.5
    return Gain(value=value, low=value - half, high=value + half, enough=all(gain.enough for gain in gains))


def _value(system: Mapping[str, Any], metric: str) -> float | None:
    found = system.get("metrics", {}).get(metric) or (system.get("loss") if metric == "loss" else None)
    value: float | None = None if not found else found.get("value")
    return value


def _gain(report: Mapping[str, Any], systems: Mapping[str, Any], metric: str) -> Gain | None:
    verdict = report.get("verdict") or {}
    if verdict.get("difference") is None:
        return None
    name = verdict.get("metric", metric)
    found = systems.get("tuned", {}).get("metrics", {}).get(name, {})
    higher = found.get("higher_is_better", name not in ("loss", "perplexity"))
    ends = [verdict[key] if higher else -verdict[key] for key in ("low", "high")]
    value = verdict["difference"] if higher else -verdict["difference"]
    low, high = min(ends), max(ends)
    # The report decides nothing by a handful of rows, whatever their interval.
    enough = bool(verdict.get("decided")) or low <= 0 <= high
    return Gain(value=value, low=low, high=high, enough=enough)


def _validation(curves: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    """Validations with the seconds of training before each of them."""
    seconds: dict[int, float] = {0: 0.0}
    passed = 0.0
    for point in curves["train"]:
        passed += point["seconds"] or 0.0
        seconds[point["step"]] = passed
    return tuple(
        (seconds[point["step"]], point["loss"])
        for point in curves["validation"]
        if point["step"] in seconds and point["loss"] is not None
    )
