"""The pictures of a report: scores, losses, training, learning curve, confusion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.evaluation.metrics.table import METRICS
from tunesmith.evaluation.report import words
from tunesmith.evaluation.report.results import measures, metric_order, system_label
from tunesmith.evaluation.report.schema import Interval, Report, TrainPoint
from tunesmith.evaluation.report.svg import BASE, FEW, INK, MUTED, TUNED, Picture, finish, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SYSTEM_COLOURS = {"base": BASE, "few_shot": FEW, "tuned": TUNED}
MOST_POINTS = 400
CONFUSION_CLASSES = 20
LABEL_CHARACTERS = 24


def draw_pictures(report: Report) -> list[Picture]:
    """Every picture that the report has data for."""
    drawn = [_scores(report), _losses(report), _curves(report), _learning_curve(report), _confusion(report)]
    return [picture for picture in drawn if picture is not None]


def _short(text: str) -> str:
    return text if len(text) <= LABEL_CHARACTERS else f"{text[: LABEL_CHARACTERS - 1]}…"


def _bars(axes: Axes, groups: Sequence[tuple[str, list[tuple[str, Interval, float]]]], digits: int) -> None:
    """Horizontal bars in groups, with whiskers and the value at the end. Values are scaled by the given factor."""
    position, ticks = 0.0, []
    for label, bars in groups:
        start = position
        for colour, interval, factor in bars:
            value = factor * (interval.value or 0.0)
            low = factor * (interval.low if interval.low is not None else interval.value or 0.0)
            high = factor * (interval.high if interval.high is not None else interval.value or 0.0)
            axes.barh(position, value, height=0.78, color=colour, alpha=0.85)
            axes.plot([low, high], [position, position], color=INK, linewidth=1.2, solid_capstyle="butt")
            for end in (low, high):
                axes.plot([end, end], [position - 0.16, position + 0.16], color=INK, linewidth=1.2)
            axes.annotate(
                f"{value:.{digits}f}",
                (max(value, high), position),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=10,
                color=INK,
            )
            position += 1
        ticks.append(((start + position - 1) / 2, label))
        position += 0.7
    axes.set_yticks([place for place, _ in ticks], [_short(label) for _, label in ticks], color=INK)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def _groups(report: Report, names: Sequence[str]) -> list[tuple[str, list[tuple[str, Interval, float]]]]:
    groups = []
    for name in names:
        factor = 100.0 if name in METRICS and METRICS[name].unit == "share" else 1.0
        bars = [
            (SYSTEM_COLOURS.get(system.name, MUTED), found, factor)
            for system in report.systems
            if (found := measures(system).get(name)) is not None and found.value is not None
        ]
        if bars:
            groups.append((words.metric_label(name), bars))
    return groups


def _bar_figure(report: Report, names: Sequence[str], digits: int, limit: float | None) -> Figure | None:
    groups = _groups(report, names)
    if not groups:
        return None
    count = sum(len(bars) + 0.7 for _, bars in groups)
    with styled():
        figure = new_figure(0.9 + 0.27 * count)
        axes = figure.add_subplot()
        _bars(axes, groups, digits)
        axes.set_xlim(0, limit)
        if limit is None:
            axes.margins(x=0.18)
            axes.set_xlim(left=0)
        _legend(figure, report)
    return figure


def _legend(figure: Figure, report: Report) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=SYSTEM_COLOURS.get(system.name, MUTED), alpha=0.85, label=_short(system_label(system)))
        for system in report.systems
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=10, handlelength=1, handleheight=1)


def _scores(report: Report) -> Picture | None:
    names = [name for name in metric_order(report) if name in METRICS and METRICS[name].unit in ("share", "points")]
    figure = _bar_figure(report, names, 1, 112)
    if figure is None:
        return None
    axes = figure.axes[0]
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("percent, or points of 100")
    return finish("scores", "Scores before and after", "Longer is better; whiskers are 95 % intervals.", figure)


def _losses(report: Report) -> Picture | None:
    figure = _bar_figure(report, ["loss"], 3, None)
    if figure is None:
        return None
    figure.axes[0].set_xlabel("nats a token")
    return finish("losses", "Held-out loss before and after", "Shorter is better; whiskers are 95 % intervals.", figure)


def thin(points: Sequence[TrainPoint], most: int = MOST_POINTS) -> list[tuple[float, float, float | None]]:
    """(step, loss, learning rate) of at most ``most`` points: each the mean of neighbours where there are more."""
    kept = [point for point in points if point.loss is not None and math.isfinite(point.loss)]
    size = max(1, math.ceil(len(kept) / most))
    thinned: list[tuple[float, float, float | None]] = []
    for start in range(0, len(kept), size):
        group = kept[start : start + size]
        rates = [point.learning_rate for point in group if point.learning_rate is not None]
        loss = sum(point.loss or 0.0 for point in group) / len(group)
        thinned.append((group[-1].step, loss, sum(rates) / len(rates) if rates else None))
    return thinned


def _curves(report: Report) -> Picture | None:
    points = thin(report.curves.train)
    checks = [(point.step, point.loss) for point in report.curves.validation if point.loss is not None]
    if len(points) < 2:
        return None
    rates = [(step, rate) for step, _, rate in points if rate is not None]
    with styled():
        figure = new_figure(4.1 if rates else 3.0)
        top, *below = figure.subplots(
            2 if rates else 1, 1, sharex=True, squeeze=False, height_ratios=[3, 1] if rates else [1]
        )[:, 0]
        top.plot([p[0] for p in points], [p[1] for p in points], color=BASE, linewidth=1.4, label="training")
        if checks:
            top.plot(*zip(*checks, strict=True), color=TUNED, marker="o", markersize=5, label="validation")
        top.set_ylabel("loss, nats a token")
        top.grid(axis="y")
        top.legend(loc="upper right", fontsize=10)
        for axes in below:
            axes.plot(*zip(*rates, strict=True), color=FEW)
            axes.set_ylabel("learning rate")
            axes.set_ylim(bottom=0)
            axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=False)
            axes.grid(axis="y")
        (below or [top])[-1].set_xlabel("step")
        figure.align_ylabels()
    caption = "Loss over the steps, and the learning rate below." if rates else "Loss over the steps."
    if len(report.curves.train) > MOST_POINTS:
        caption += f" Each point of the training line is the mean of up to {_group_size(report)} steps."
    return finish("curves", "Training", caption, figure)


def _group_size(report: Report) -> int:
    return math.ceil(len(report.curves.train) / MOST_POINTS)


def _learning_curve(report: Report) -> Picture | None:
    points = sorted(report.learning_curve or [], key=lambda point: point.fraction)
    series = {
        "held-out loss": [(p.rows or p.fraction, p.loss) for p in points if p.loss is not None],
        words.metric_label(report.primary_metric or "metric"): [
            (p.rows or p.fraction, p.metric) for p in points if p.metric is not None and report.primary_metric != "loss"
        ],
    }
    shown = {name: values for name, values in series.items() if len(values) > 1}
    if not shown:
        return None
    with styled():
        figure = new_figure(1.9 * len(shown) + 0.3)
        panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, values) in zip(panels, shown.items(), strict=True):
            axes.plot(*zip(*values, strict=True), color=TUNED, marker="o", markersize=5)
            axes.set_ylabel(_short(name))
            axes.margins(y=0.2)
            axes.grid(axis="y")
        panels[-1].set_xlabel("training rows")
        panels[-1].set_xlim(left=0)
        figure.align_ylabels()
    caption = "What more rows brought. A line still moving at its right end asks for more data."
    return finish("learning", "Learning curve", caption, figure)


def _confusion(report: Report) -> Picture | None:
    from matplotlib.patches import Rectangle

    system = next((system for system in reversed(report.systems) if system.name == "tuned"), None)
    found = system.details.get("confusion") if system else None
    labels, counts = _confusion_counts(found)
    if system is None or found is None or not labels:
        return None
    columns, side = list(labels), len(labels)
    classes = found.get("classes", side)
    others = found.get("others", [0] * side)
    if classes > side:
        columns.append(f"({classes - side} others)")
        counts = [[*row[:-1], other, row[-1]] for row, other in zip(counts, others, strict=True)]
    if any(row[-1] for row in counts):
        columns.append("(invalid)")
    with styled():
        figure = new_figure(min(6.6, 2.0 + 0.36 * side))
        axes = figure.add_subplot()
        for row, line in enumerate(counts):
            total = sum(line) or 1
            for column, count in enumerate(line[: len(columns)]):
                colour = TUNED if column == row else FEW
                share = count / total
                axes.add_patch(
                    Rectangle((column, row), 0.96, 0.96, facecolor=colour, alpha=0.06 + 0.6 * share if count else 0.06)
                )
                if count:
                    axes.text(column + 0.48, row + 0.5, str(count), ha="center", va="center", fontsize=9)
        axes.set_xlim(0, len(columns))
        axes.set_ylim(side, 0)
        axes.set_yticks([place + 0.48 for place in range(side)], [_short(label) for label in labels])
        axes.set_xticks(
            [place + 0.48 for place in range(len(columns))],
            [_short(label) for label in columns],
            rotation=45,
            ha="right",
            rotation_mode="anchor",
        )
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_ylabel("true")
        axes.set_xlabel("answered")
    caption = f"Answers of the {_short(system_label(system))}. The diagonal is right; the darker, the larger its share."
    if classes > side:
        caption += f" Of {classes} classes, the {side} that are taken for each other most."
    return finish("confusion", "Confusion", caption, figure)


def _confusion_counts(found: Any) -> tuple[list[str], list[list[int]]]:
    """Labels and counts if they are well formed and few enough to draw, else nothing."""
    if not isinstance(found, dict):
        return [], []
    labels, counts = found.get("labels"), found.get("counts")
    if not isinstance(labels, list) or not isinstance(counts, list) or not 1 <= len(labels) <= CONFUSION_CLASSES:
        return [], []
    square = len(counts) == len(labels) and all(
        isinstance(line, list) and len(line) == len(labels) + 1 and all(isinstance(count, int) for count in line)
        for line in counts
    )
    others = found.get("others", [0] * len(labels))
    told = isinstance(others, list) and len(others) == len(labels) and all(isinstance(count, int) for count in others)
    told &= isinstance(found.get("classes", len(labels)), int)
    return ([str(label) for label in labels], counts) if square and told else ([], [])
