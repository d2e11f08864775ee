"""Metrics that a recipe names, refused before anything is measured where they cannot tell anything of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from tunesmith.errors import Problem, RecipeError, UsageError
from tunesmith.evaluation.metrics.table import find_metric
from tunesmith.evaluation.metrics.types import Metric
from tunesmith.pipeline.supervision import SUPERVISION
from tunesmith.recipe.resolved import Resolved
from tunesmith.recipe.schema import Recipe
from tunesmith.tasks import EvaluationRow, PreparedTask

if TYPE_CHECKING:
    from tunesmith.pipeline.prepare import Prepared

_KEY = "evaluate.metrics"
_NOT_OF_ANSWERS = (
    "loss and perplexity are in every report; others come with evaluate.probe, evaluate.multiple_choice and "
    "`tunesmith eval --robustness`"
)
# Of so many held-out rows the right answers are measured; more would only take time.
_MOST_ROWS = 200


def require_known_metrics(recipe: Recipe) -> None:
    """Refuse names of metrics that would only be missed when everything is trained.

    Raises:
        RecipeError: ``recipe.metric``.
    """
    problems = []
    for name in _named(recipe):
        try:
            metric = find_metric(name)
        except UsageError as error:
            problems.append(Problem("recipe.metric", error.message, _KEY, name, error.hint))
            continue
        if metric.measure is None and metric.needs != "pairs":
            problems.append(Problem("recipe.metric", "answers are not measured by this", _KEY, name, _NOT_OF_ANSWERS))
    if problems:
        raise RecipeError("some metrics cannot be measured", problems=problems)


def require_fitting_metrics(prepared: Prepared, resolved: Resolved) -> None:
    """Refuse metrics that do not fit the rows: the right answers themselves are measured by them.

    Raises:
        RecipeError: ``recipe.metric_of_task``: right answers cannot be measured by it, or score 0.
    """
    named = _named(prepared.recipe)
    if not named:
        return
    shown, task = SUPERVISION[resolved.objective.name].shown, prepared.task
    asked = (shown(task, example) for _, example in prepared.data.held_out())
    rows = list(islice((row for row in asked if row is not None), _MOST_ROWS))
    reasons = {name: misfit(find_metric(name), task, rows) for name in named}
    problems = [
        Problem(
            "recipe.metric_of_task",
            f"this metric does not fit task {task.name}: {reason}",
            _KEY,
            name,
            f"this task's own are {', '.join(task.metrics)}" if task.metrics else "leave it out",
        )
        for name, reason in reasons.items()
        if reason
    ]
    if problems:
        raise RecipeError("some metrics do not fit the task", problems=problems)


def _named(recipe: Recipe) -> tuple[str, ...]:
    return () if recipe.evaluate.metrics == "auto" else recipe.evaluate.metrics


def misfit(metric: Metric, task: PreparedTask, rows: Sequence[EvaluationRow]) -> str:
    """Why a metric tells nothing of the rows; empty where it does, and where it does not compare answers."""
    if metric.measure is None or not rows:
        return ""
    try:
        found = metric.measure([row.shown_reference for row in rows], [row.reference for row in rows], task.labels)
    except UsageError as error:
        return f"{error.message} ({error.value})" if error.value else error.message
    return "" if found.scores.max() > 0 else "not even the right answers score"
