"""A matrix as one picture: for each scenario the gain of every column with its interval, memory, time of a token."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.errors import DataError
from tunesmith.evaluation.report.svg import (
    BASE,
    FEW,
    INK,
    MUTED,
    PAPER,
    TUNED,
    VARIABLES,
    Picture,
    finish,
    light_colours,
    page_colours,
    styled,
)
from tunesmith.matrix.cell import Matrix, Outcome, over_seeds
from tunesmith.matrix.plan import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GIB = 2**30
_WIDTH_INCHES = 11.0
_LINE_INCHES = 0.30
_ROW_INCHES = 0.85
_DOTS_AN_INCH = 130
_STAND_INS = {name: name for name in VARIABLES}

Colours = Mapping[str, str]


def write_matrix_pictures(layout: Layout, matrix: Matrix, folder: Path) -> None:
    """``matrix.svg``, which follows the reader's light or dark setting, and ``matrix.png``.

    Raises:
        DataError: ``data.matrix_empty``: no cell has ended well.
        OutputError: The folder cannot be written.
    """
    from tunesmith.runs.atomic import telling_output_errors, write_text

    colours = light_colours()
    with telling_output_errors(folder):
        with styled(colours):
            _draw(layout, matrix, colours).savefig(
                folder / "matrix.png", format="png", dpi=_DOTS_AN_INCH, facecolor=colours[PAPER]
            )
        write_text(folder / "matrix.svg", _standalone(matrix_picture(layout, matrix)))


def matrix_picture(layout: Layout, matrix: Matrix) -> Picture:
    """The picture for a page, in the page's colours."""
    with styled():
        figure = _draw(layout, matrix, _STAND_INS)
    caption = (
        "Each line is one way to tune. A dot is the gain over the untuned model with its 95 % interval, filled where "
        "it leaves 0 out; bars are the peak memory of a process and the machine's time for a token of training."
    )
    return finish("matrix", "Which technique for what", caption, figure)


def _standalone(picture: Picture) -> str:
    day, night, *_ = page_colours()
    style = f"<style>{day} @media (prefers-color-scheme: dark) {{ {night} }}</style>"
    opening, rest = picture.svg.split(">", 1)
    background = '<rect width="100%" height="100%" fill="var(--paper)"/>'
    return f'{opening} xmlns="http://www.w3.org/2000/svg">{style}{background}{rest}\n'


def _draw(layout: Layout, matrix: Matrix, colours: Colours) -> Figure:
    from matplotlib.figure import Figure

    by_scenario = {layout.scenario(name).title: _by_title(layout, matrix, name) for name in matrix.mode.scenarios}
    shown = {title: found for title, found in by_scenario.items() if found}
    others = [layout.column(name).pooled_against for name in matrix.mode.pooled]
    wanted = {*matrix.mode.pooled, *others}
    sharing = [column.id for column in layout.columns if column.id in wanted]
    by_column = {layout.column(name).title: matrix.of("pooled", name) for name in sharing}
    shared = {title: found for title, found in by_column.items() if found}
    if not shown and not shared:
        raise DataError("no cell of the matrix has ended well", code="data.matrix_empty", hint="see why in its page")
    groups = [*shown.values(), *([shared] if shared else [])]
    heights = [_ROW_INCHES + _LINE_INCHES * len(found) for found in groups]
    figure = Figure(figsize=(_WIDTH_INCHES, 0.3 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(groups), 3, squeeze=False, height_ratios=heights, width_ratios=[2.2, 1, 1])
    for (gain, memory, time), (title, found) in zip(panels, shown.items(), strict=False):
        _gains(gain, found, _titled(title, found), colours)
        _resources(memory, time, found, colours)
    if shared:
        nothing, memory, time = panels[-1]
        nothing.set_axis_off()
        text = "Two processes share the work\n(activations computed again)"
        nothing.text(
            1.0, 0.5, text, ha="right", va="center", fontsize=11, color=colours[INK], transform=nothing.transAxes
        )
        _resources(memory, time, shared, colours, names=True)
    return figure


def _by_title(layout: Layout, matrix: Matrix, scenario: str) -> dict[str, list[Outcome]]:
    return {
        layout.column(name).title: found
        for name in matrix.mode.columns
        if (found := matrix.of("quality", name, scenario))
    }


def _titled(title: str, found: Mapping[str, Sequence[Outcome]]) -> str:
    metric = next(iter(found.values()))[0].metric.replace("_", " ")
    return f"{title[:1].upper()}{title[1:]}: gain in {metric}"


def _gains(axes: Axes, found: Mapping[str, Sequence[Outcome]], title: str, colours: Colours) -> None:
    for at, outcomes in enumerate(found.values()):
        gain = over_seeds([one.gain for one in outcomes if one.gain])
        if gain is None:
            continue
        colour = colours[TUNED] if gain.low > 0 else colours[MUTED]
        axes.plot([gain.low, gain.high], [at, at], color=colour, linewidth=1.6, solid_capstyle="butt")
        face = colour if gain.decided else colours[PAPER]
        axes.plot([gain.value], [at], marker="o", markersize=6.5, markerfacecolor=face, markeredgecolor=colour)
    axes.axvline(0, color=colours[INK], linewidth=0.8)
    _names(axes, list(found), colours)
    axes.set_title(title, loc="left", fontsize=11, color=colours[INK])
    axes.grid(axis="x")
    axes.tick_params(length=0, labelsize=9)


def _resources(
    memory: Axes, time: Axes, found: Mapping[str, Sequence[Outcome]], colours: Colours, *, names: bool = False
) -> None:
    bytes_of = [[one.process_memory_bytes / _GIB for one in outcomes] for outcomes in found.values()]
    times_of = [[1000 * one.seconds_per_token for one in outcomes] for outcomes in found.values()]
    _bars(memory, bytes_of, "Memory of a process (GiB)", (colours[BASE], colours[INK]))
    _bars(time, times_of, "Time of a token (ms)", (colours[FEW], colours[INK]))
    for axes in (memory, time):
        if names and axes is memory:
            _names(axes, list(found), colours)
        else:
            axes.set_yticks([])
            axes.set_ylim(len(found) - 0.4, -0.6)


def _bars(axes: Axes, numbers: Sequence[Sequence[float]], title: str, colours: tuple[str, str]) -> None:
    """The mean of each line's numbers as a bar in the first colour, with its value in the second."""
    colour, ink = colours
    values = [statistics.fmean(one) for one in numbers]
    axes.barh(range(len(values)), values, height=0.62, color=colour)
    for at, value in enumerate(values):
        axes.annotate(
            f"{value:.2f}",
            (value, at),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=ink,
        )
    axes.set_xlim(0, 1.25 * max(values))
    axes.set_title(title, loc="left", fontsize=10, color=ink)
    axes.tick_params(length=0, labelsize=9)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def _names(axes: Axes, names: Sequence[str], colours: Colours) -> None:
    axes.set_yticks(range(len(names)), list(names), fontsize=10, color=colours[INK])
    axes.set_ylim(len(names) - 0.4, -0.6)
