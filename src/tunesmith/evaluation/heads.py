"""Models with a head measured: the loss of their labels, and the labels that they put, in words.

Shape suffixes: L labels of a pack, C classes, B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.data.labelled import LabelReader
from tunesmith.data.packs import lay_out
from tunesmith.data.types import TokenRow
from tunesmith.errors import Stopped
from tunesmith.evaluation.held_out import ROWS_AT_ONCE, Item, LabelLosses, Layout, RowLosses, held_out_losses
from tunesmith.evaluation.questions import Asked
from tunesmith.evaluation.systems import Answers, OnProgress, Ruler, ShouldStop
from tunesmith.models.heads import head_logits

# Of an answer: where it starts, and where it ends.
_MARKS = 2


def head_ruler(
    reader: LabelReader,
    layout: Layout,
    label_losses: LabelLosses,
    *,
    a_row_counts_once: bool,
    on_progress: OnProgress,
    should_stop: ShouldStop,
) -> Ruler:
    """How models with a head are measured.

    Args:
        reader: Puts the head's scores into words.
        layout: How rows are laid out.
        label_losses: The loss of each label of a pack and whether it was the likeliest, from the objective.
        a_row_counts_once: Whether the mean loss is one over rows and not over labels.
        on_progress: See :class:`tunesmith.evaluation.systems.Ruler`.
        should_stop: Likewise.
    """

    def losses(model: Any, items: Sequence[Item], done: Callable[[int], None], stop: ShouldStop) -> RowLosses:
        found = held_out_losses(model, items, label_losses, layout, on_progress=done, should_stop=stop)
        if not a_row_counts_once:
            return found
        hits = tuple(int(marks == _MARKS) for marks in found.hits_B)
        return RowLosses(found.loss_sums_B, (1,) * len(items), hits)

    def answers(model: Any, asked: Asked, done: Callable[[int], None], stop: ShouldStop) -> Answers:
        scores = label_scores(model, asked.rows, layout, on_progress=done, should_stop=stop)
        texts = (
            reader.answer(reader.encode(example), reader.predict(scores_L_C).tolist())
            for example, scores_L_C in zip(asked.examples, scores, strict=True)
        )
        return Answers(tuple(texts))

    return Ruler(losses, answers, on_progress, should_stop)


def label_scores(
    model: Any,
    rows: Sequence[TokenRow],
    layout: Layout,
    *,
    on_progress: Callable[[int], None],
    should_stop: ShouldStop,
) -> list[NDArray[np.float32]]:
    """Scores of each row's labels, ``[L, C]`` a row, in the order of the rows.

    Raises:
        Stopped: ``should_stop`` said so.
    """
    scores: dict[int, NDArray[np.float32]] = {}
    order = sorted(range(len(rows)), key=lambda at: len(rows[at].token_ids_T))
    for start in range(0, len(order), ROWS_AT_ONCE):
        packs = lay_out(
            [(at, rows[at]) for at in order[start : start + ROWS_AT_ONCE]],
            tokens_per_micro_batch=layout.tokens_per_micro_batch,
            layout=layout.layout,
            share_prefix=layout.share_prefix,
        )
        for pack in packs:
            if should_stop():
                raise Stopped("the evaluation was stopped", code="evaluation.stopped")
            bfloat16 = layout.precision == "bfloat16"
            with torch.inference_mode(), torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bfloat16):
                scores_L_C = head_logits(model, pack).float().cpu().numpy()
            for place, row in enumerate(pack.rows):
                scores[row] = scores_L_C[pack.label_rows_L == place]
        on_progress(min(start + ROWS_AT_ONCE, len(order)))
    return [scores[at] for at in range(len(rows))]
