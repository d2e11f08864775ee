"""Preferences measured: the loss of what people chose, and how likely both answers of a pair are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tunesmith.data.types import TokenRow
from tunesmith.errors import DataError
from tunesmith.evaluation.held_out import Item, LabelLosses, Layout, RowLosses, held_out_losses
from tunesmith.evaluation.questions import Asked
from tunesmith.evaluation.systems import Answers, OnProgress, Ruler, ShouldStop


def preference_ruler(
    layout: Layout, label_losses: LabelLosses, *, on_progress: OnProgress, should_stop: ShouldStop
) -> Ruler:
    """How models are measured on pairs and on rated answers.

    The loss is that of chosen or wanted answers; an item without one counts no token. ``pair_scores_B`` are the mean
    log probabilities a token of the chosen and of the rejected answer, so that length alone decides nothing; of a
    rated answer that of its own kind, and None for the other.

    Measuring raises a :class:`tunesmith.errors.DataError` (``evaluation.none_wanted``) where no answer is wanted.
    """

    def losses(model: Any, items: Sequence[Item], done: Callable[[int], None], stop: ShouldStop) -> RowLosses:
        wanted = [tuple(row for row in item if row.kind == 1) for item in items]
        return held_out_losses(model, wanted, label_losses, layout, on_progress=done, should_stop=stop)

    def answers(model: Any, asked: Asked, done: Callable[[int], None], stop: ShouldStop) -> Answers:  # noqa: ARG001
        if not any(row.kind == 1 for item in asked.items for row in item):
            raise DataError(
                "none of the held-out answers that are measured is wanted, so there is no loss to measure",
                code="evaluation.none_wanted",
                value=f"{len(asked.items)} rows",
                hint="hold out more rows, or raise evaluate.rows",
            )
        rows = [row for item in asked.items for row in _chosen_first(item)]
        # The rows were counted as done when their losses were measured.
        found = held_out_losses(model, [(row,) for row in rows], label_losses, layout, should_stop=stop)
        means = iter([-total / count for total, count in zip(found.loss_sums_B, found.counts_B, strict=True)])
        return Answers(pair_scores_B=tuple(_scores(item, means) for item in asked.items))

    return Ruler(losses, answers, on_progress, should_stop)


def _chosen_first(pair: Item) -> list[TokenRow]:
    return sorted(pair, key=lambda row: -row.kind)


def _scores(item: Item, means: Iterator[float]) -> tuple[float | None, float | None]:
    """What an item's answers score, taken from those of all rows in their order."""
    if len(item) == 2:
        return next(means), next(means)
    return (next(means), None) if item[0].kind == 1 else (None, next(means))
