"""Before and after of several models and metrics in one picture, out of their reports."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import DataError
from tunesmith.evaluation.metrics.table import METRICS
from tunesmith.evaluation.report import words
from tunesmith.evaluation.report.chart_names import model_names
from tunesmith.evaluation.report.results import higher_is_better, measures
from tunesmith.evaluation.report.schema import Interval, Report
from tunesmith.evaluation.report.svg import (
    BASE,
    INK,
    PAPER,
    TUNED,
    VARIABLES,
    Picture,
    finish,
    light_colours,
    page_colours,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDES = ("before", "after")
_COLOURS = {"before": BASE, "after": TUNED}
_LEGEND = {"before": "before fine-tuning", "after": "after fine-tuning"}
# What a chart shows of a report unless metrics are named: what has a fixed scale.
_SCALES = ("share", "points")
_LABEL_CHARACTERS = 14
_LABEL_LINES = 3
_INCHES_A_MODEL = 1.05
_LEAST_WIDTH, _MOST_WIDTH = 6.2, 13.0
_PANEL_INCHES = 1.9
_BAR = 0.38
_DOTS_AN_INCH = 160
_STAND_INS = {name: name for name in VARIABLES}

Colours = Mapping[str, str]


@dataclass(frozen=True)
class ChartModel:
    """One model: for each metric what it scored before and after tuning, where that was measured."""

    name: str
    metrics: Mapping[str, Mapping[str, Interval]]


@dataclass(frozen=True)
class Chart:
    """What one picture shows: models side by side in a panel for each metric."""

    models: tuple[ChartModel, ...]
    metrics: tuple[str, ...]
    higher_is_better: Mapping[str, bool]

    def to_json(self) -> dict[str, Any]:
        """The numbers behind the picture."""
        return {
            "format": 1,
            "metrics": list(self.metrics),
            "models": [
                {
                    "name": model.name,
                    "metrics": {
                        metric: {
                            side: found.model_dump(include={"value", "low", "high"})
                            for side, found in model.metrics[metric].items()
                        }
                        for metric in self.metrics
                        if metric in model.metrics
                    },
                }
                for model in self.models
            ],
        }


def make_chart(reports: Sequence[Report], metrics: Sequence[str] = ()) -> Chart:
    """Gather reports into a chart; reports of one run, such as its own and one of multiple choice, become one model.

    What a model is called is as in :func:`tunesmith.evaluation.report.chart_names.model_names`.

    Args:
        reports: In the order in which the models are shown.
        metrics: What to show; every metric on a fixed scale, the order of the reports, unless named.

    Raises:
        DataError: ``chart.no_metric``: nothing to show, or a metric that no report has.
    """
    models: dict[str, dict[str, dict[str, Interval]]] = {}
    higher: dict[str, bool] = {}
    for report, model_name in zip(reports, model_names(reports), strict=True):
        for side, name in zip(SIDES, ("base", "tuned"), strict=True):
            system = next((system for system in report.systems if system.name == name), None)
            for metric, found in ({} if system is None else measures(system)).items():
                if found.value is not None:
                    models.setdefault(model_name, {}).setdefault(metric, {})[side] = found
                    higher[metric] = higher_is_better(report, metric)
    known = list(dict.fromkeys(metric for by_metric in models.values() for metric in by_metric))
    shown = tuple(metrics) or tuple(name for name in known if _unit(name) in _SCALES or "/" in name)
    missing = [name for name in shown if name not in known]
    if missing or not shown:
        raise DataError(
            "no report has this metric" if missing else "the reports have no metric that a chart shows by itself",
            code="chart.no_metric",
            value=", ".join(missing) or None,
            hint=f"they have {', '.join(known)}" if known else "measure the models first",
        )
    found_models = tuple(
        ChartModel(name, by_metric)
        for name, by_metric in models.items()
        if any(metric in by_metric for metric in shown)
    )
    return Chart(found_models, shown, {name: higher[name] for name in shown})


def chart_picture(chart: Chart) -> Picture:
    """The chart for a page, in the page's colours."""
    with styled():
        figure = _draw(chart, _STAND_INS)
    caption = "Grey is before, green after fine-tuning; whiskers are 95 % intervals."
    lower = [words.metric_label(name) for name in chart.metrics if not chart.higher_is_better[name]]
    if lower:
        caption += f" Lower is better for {', '.join(lower)}."
    return finish("before-and-after", "Before and after fine-tuning", caption, figure)


def standalone_svg(chart: Chart) -> str:
    """The chart as a file of its own that follows the reader's light or dark setting."""
    picture = chart_picture(chart)
    day, night, *_ = page_colours()
    style = f"<style>{day} @media (prefers-color-scheme: dark) {{ {night} }}</style>"
    opening, rest = picture.svg.split(">", 1)
    background = '<rect width="100%" height="100%" fill="var(--paper)"/>'
    return f'{opening} xmlns="http://www.w3.org/2000/svg">{style}{background}{rest}\n'


def write_png(chart: Chart, path: Path) -> None:
    """The chart as a PNG file in the light colours."""
    colours = light_colours()
    with styled(colours):
        _draw(chart, colours).savefig(path, format="png", dpi=_DOTS_AN_INCH, facecolor=colours[PAPER])


def _unit(metric: str) -> str | None:
    return METRICS[metric].unit if metric in METRICS else None


def _draw(chart: Chart, colours: Colours) -> Figure:
    from matplotlib.figure import Figure

    width = min(_MOST_WIDTH, max(_LEAST_WIDTH, 1.0 + _INCHES_A_MODEL * len(chart.models)))
    figure = Figure(figsize=(width, 0.9 + _PANEL_INCHES * len(chart.metrics)), layout="constrained")
    panels = figure.subplots(len(chart.metrics), 1, sharex=True, squeeze=False)[:, 0]
    for axes, metric in zip(panels, chart.metrics, strict=True):
        _panel(axes, chart, metric, colours)
    panels[-1].set_xticks(
        range(len(chart.models)), [_wrapped(model.name) for model in chart.models], fontsize=10, color=colours[INK]
    )
    _legend(figure, chart, colours)
    return figure


def _panel(axes: Axes, chart: Chart, metric: str, colours: Colours) -> None:
    factor = 100.0 if _unit(metric) == "share" else 1.0
    ends: list[float] = [0.0]
    for at, model in enumerate(chart.models):
        found = model.metrics.get(metric, {})
        sides = [side for side in SIDES if side in found]
        for side in sides:
            # A model that was measured once has its bar in the middle.
            place = at + (0 if len(sides) == 1 else (-0.5, 0.5)[SIDES.index(side)] * (_BAR + 0.03))
            ends.extend(_bar(axes, place, found[side], factor, (colours[_COLOURS[side]], colours[INK])))
    title = words.metric_label(metric)
    unit = {"share": "%", "points": "points", "nats": "nats a token"}.get(_unit(metric) or "", "")
    direction = "" if chart.higher_is_better[metric] else ", lower is better"
    axes.set_title(f"{title}{f' ({unit})' if unit else ''}{direction}", loc="left", fontsize=11, color=colours[INK])
    axes.set_xlim(-0.6, len(chart.models) - 0.4)
    if _unit(metric) in _SCALES:
        axes.set_yticks(range(0, 101, 25))
        axes.set_ylim(0, max(112, 1.12 * max(ends)))
    else:
        # Room for the numbers at the ends of the bars, on either side of zero.
        room = 0.18 * (max(ends) - min(ends))
        axes.set_ylim(min(ends) - (room if min(ends) < 0 else 0), max(ends) + room or 1)
    if min(ends) < 0:
        axes.axhline(0, color=colours[INK], linewidth=0.8)
    axes.tick_params(length=0, labelsize=9)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)


def _bar(axes: Axes, place: float, interval: Interval, factor: float, colours: tuple[str, str]) -> tuple[float, float]:
    """One bar with whisker and value, which stands beyond its end; returns how low and how high it reaches."""
    colour, ink = colours
    value = factor * (interval.value or 0.0)
    low, high = (value if end is None else factor * end for end in (interval.low, interval.high))
    axes.bar(place, value, width=_BAR, color=colour)
    if high > low:
        axes.plot([place, place], [low, high], color=ink, linewidth=1.1, solid_capstyle="butt")
        for end in (low, high):
            axes.plot([place - 0.05, place + 0.05], [end, end], color=ink, linewidth=1.1)
    bottom, top = min(value, low), max(value, high)
    axes.annotate(
        _shown(value, factor),
        (place, bottom if value < 0 else top),
        xytext=(0, -3 if value < 0 else 3),
        textcoords="offset points",
        ha="center",
        va="top" if value < 0 else "bottom",
        fontsize=9.5,
        color=ink,
    )
    return bottom, top


def _shown(value: float, factor: float) -> str:
    return f"{value:.1f}" if factor > 1 or abs(value) >= 10 else f"{value:.3f}"


def _wrapped(name: str) -> str:
    lines = textwrap.wrap(name.replace("/", "/ "), _LABEL_CHARACTERS, break_on_hyphens=True) or [name]
    if len(lines) > _LABEL_LINES:
        lines = [*lines[: _LABEL_LINES - 1], f"{lines[_LABEL_LINES - 1][: _LABEL_CHARACTERS - 1]}…"]
    return "\n".join(line.strip() for line in lines)


def _legend(figure: Figure, chart: Chart, colours: Colours) -> None:
    from matplotlib.patches import Patch

    sides = [side for side in SIDES if any(side in found for m in chart.models for found in m.metrics.values())]
    handles = [Patch(color=colours[_COLOURS[side]], label=_LEGEND[side]) for side in sides]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, fontsize=10, handlelength=1, handleheight=1)
