"""What a matrix runs: scenarios, columns and the cells that they make, out of ``data/matrix.yaml``.

    layout = load_layout()
    cells = plan_cells(layout, choose(layout, "quick"))

A cell is one run. ``quality`` cells are a scenario under a column, once for each seed; ``pooled`` and ``alone`` cells
are a few steps of one size by which the memory of several processes is held against that of others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import Problem, UsageError

ModeName = Literal["quick", "full"]
Kind = Literal["quality", "pooled", "alone"]
RowKind = Literal["quality", "cost", "memory", "parameters", "pooled"]
ALONE = "alone"
_OPTION = {"scenario": "scenario", "column": "technique"}


class _Strict(BaseModel):
    """A part of the layout; unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Kept(BaseModel):
    """A part that files hold as well; what later versions add to it is kept."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Column(_Strict):
    """A way to tune; see the comments of ``data/matrix.yaml`` for its keys."""

    id: str
    title: str
    page: str | None = None
    about: str | None = None
    settings: tuple[str, ...]
    against: str | None = None
    pooled: tuple[str, ...] | None = None
    pooled_against: str | None = None
    by_pooled: bool = False


class PageRow(_Strict):
    """A row of the page, with the marks of its two editions in the order of the layout's ``marks``."""

    id: str
    title: str
    kind: RowKind
    given: tuple[bool, ...]
    later: tuple[bool, ...]


class Scenario(_Strict):
    """Something to learn, the page's row that it belongs to, and the sample that it runs on where it has one."""

    id: str
    title: str
    row: str
    settings: tuple[str, ...]
    sample: str | None = None


class Mode(_Kept):
    """What is run where the command says nothing else."""

    scenarios: tuple[str, ...]
    columns: tuple[str, ...]
    pooled: tuple[str, ...]
    seeds: Annotated[int, Field(ge=1)]
    budget: str


class Layout(_Strict):
    """All that a matrix can run."""

    columns: tuple[Column, ...]
    marks: tuple[str, ...]
    rows: tuple[PageRow, ...]
    scenarios: tuple[Scenario, ...]
    modes: Mapping[ModeName, Mode]
    quality_settings: tuple[str, ...]
    pooled_scenario: str
    pooled_settings: tuple[str, ...]

    def column(self, name: str) -> Column:
        """A column by its id."""
        return next(column for column in self.columns if column.id == name)

    def scenario(self, name: str) -> Scenario:
        """A scenario by its id."""
        return next(scenario for scenario in self.scenarios if scenario.id == name)


class Cell(_Kept):
    """One run, with the settings that it adds to model and data."""

    kind: Kind
    scenario: str
    column: str
    seed: int
    settings: tuple[str, ...]

    @property
    def name(self) -> str:
        """A name that no other cell of a matrix has."""
        return "-".join([self.kind, self.scenario, self.column, str(self.seed)])

    @property
    def devices(self) -> int:
        """Devices, or processes on a machine without any, that share the run; the last setting counts."""
        said = [value for key, _, value in (one.partition("=") for one in self.settings) if key == "train.devices"]
        return int(said[-1]) if said else 1


@cache
def load_layout() -> Layout:
    """The layout that ships with Tunesmith."""
    text = resources.files("tunesmith.matrix").joinpath("data", "matrix.yaml").read_text("utf-8")
    return Layout.model_validate(yaml.safe_load(text))


def choose(
    layout: Layout,
    mode: ModeName,
    *,
    scenarios: Collection[str] = (),
    columns: Collection[str] = (),
    seeds: int | None = None,
    budget: str | None = None,
    pooled: bool = True,
) -> Mode:
    """What a mode runs, with what was asked for in its place.

    Raises:
        UsageError: ``usage.matrix_name``: there is no such scenario or column; all of them are named.
    """
    usual = layout.modes[mode]
    known = {"scenario": [one.id for one in layout.scenarios], "column": [one.id for one in layout.columns]}
    problems = [*_unknown("scenario", scenarios, known), *_unknown("column", columns, known)]
    if problems:
        raise UsageError("the matrix has no such part", code="usage.matrix_name", problems=problems)
    wanted = _in_order(columns, known["column"]) or usual.columns
    sharing = tuple(name for name in _in_order(columns, known["column"]) or usual.pooled if _shares(layout, name))
    return Mode(
        scenarios=_in_order(scenarios, known["scenario"]) or usual.scenarios,
        columns=wanted,
        pooled=sharing if pooled else (),
        seeds=seeds or usual.seeds,
        budget=budget or usual.budget,
    )


def plan_cells(layout: Layout, mode: Mode) -> list[Cell]:
    """The cells of a mode, scenario by scenario and seed by seed, so that a matrix that stops early is square."""
    cells = [
        Cell(
            kind="quality",
            scenario=scenario.id,
            column=column.id,
            seed=seed,
            settings=(
                *layout.quality_settings,
                *scenario.settings,
                *column.settings,
                f"train.budget={mode.budget}",
                f"train.seed={seed}",
            ),
        )
        for seed in range(mode.seeds)
        for scenario in (layout.scenario(name) for name in mode.scenarios)
        for column in (layout.column(name) for name in mode.columns)
    ]
    return cells + list(_sharing_cells(layout, mode.pooled))


def _sharing_cells(layout: Layout, names: Iterable[str]) -> Iterator[Cell]:
    names = list(names)
    others = {layout.column(name).pooled_against for name in names} - {None, ALONE, *names}
    for name in [*sorted(other for other in others if other is not None), *names]:
        column = layout.column(name)
        if column.pooled_against == ALONE:
            yield _sharing_cell(layout, column, "alone", ())
        yield _sharing_cell(layout, column, "pooled", column.pooled or ())


def _sharing_cell(layout: Layout, column: Column, kind: Kind, shared: tuple[str, ...]) -> Cell:
    scenario = layout.scenario(layout.pooled_scenario)
    settings = (*scenario.settings, *column.settings, *shared, *layout.pooled_settings, "train.seed=0")
    return Cell(kind=kind, scenario=scenario.id, column=column.id, seed=0, settings=settings)


def _shares(layout: Layout, name: str) -> bool:
    return layout.column(name).pooled is not None


def _in_order(wanted: Collection[str], known: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in known if name in wanted)


def _unknown(what: str, wanted: Collection[str], known: Mapping[str, list[str]]) -> list[Problem]:
    return [
        Problem("usage.matrix_name", f"no such {what}", f"--{_OPTION[what]}", name, f"one of {', '.join(known[what])}")
        for name in wanted
        if name not in known[what]
    ]
