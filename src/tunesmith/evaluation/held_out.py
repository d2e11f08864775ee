"""The loss of held-out rows, row by row, by the very objective and layout that training uses.

Shape suffixes: L labels of a pack, B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.data.packs import lay_out
from tunesmith.data.types import Pack, TokenRow
from tunesmith.errors import Stopped
from tunesmith.models.memory import telling_memory_errors

# Rows laid out together; sharing and packing find enough among these, and few rows are held in memory at once.
ROWS_AT_ONCE = 64

# The loss of each label of a pack, and whether (or how often) it got the highest score.
LabelLosses = Callable[[Any, Pack], tuple[torch.Tensor, torch.Tensor]]
Item = tuple[TokenRow, ...]


@dataclass(frozen=True)
class Layout:
    """How rows go through the model."""

    tokens_per_micro_batch: int
    layout: Literal["packed", "padded"] = "packed"
    share_prefix: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class RowLosses:
    """Summed loss in nats, trained tokens, and how many of these got the highest score, of each item.

    ``hits_B`` is empty where nobody counted.
    """

    loss_sums_B: tuple[float, ...]
    counts_B: tuple[int, ...]
    hits_B: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        """Loss a trained token, all rows together."""
        return sum(self.loss_sums_B) / max(1, sum(self.counts_B))

    @property
    def accuracy(self) -> float | None:
        """Share of trained tokens that got the highest score, all rows together."""
        return sum(self.hits_B) / max(1, sum(self.counts_B)) if self.hits_B else None


def held_out_losses(
    model: Any,
    items: Sequence[Item],
    label_losses: LabelLosses,
    layout: Layout,
    *,
    on_progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> RowLosses:
    """Measure items; the model is in eval mode and no gradient is kept.

    Args:
        model: A model in eval mode.
        items: What to measure, in any order; each is the rows of one item.
        label_losses: The loss of each label of a pack and whether it was the likeliest, from the objective.
        layout: How rows are laid out.
        on_progress: Called with the number of items done.
        should_stop: Asked between packs.

    Raises:
        ResourceError: The device has not enough memory for a pack.
        Stopped: ``should_stop`` said so.
    """
    sums_B = np.zeros(len(items))
    counts_B = np.zeros(len(items), dtype=np.int64)
    hits_B = np.zeros(len(items), dtype=np.int64)
    # Neighbours in length fill packs well, and the result does not depend on the order.
    order = sorted(range(len(items)), key=lambda at: sum(len(row.token_ids_T) for row in items[at]))
    for start in range(0, len(order), ROWS_AT_ONCE):
        chunk = [(at, row) for at in order[start : start + ROWS_AT_ONCE] for row in items[at]]
        packs = lay_out(
            chunk,
            tokens_per_micro_batch=layout.tokens_per_micro_batch,
            layout=layout.layout,
            share_prefix=layout.share_prefix,
        )
        for pack in packs:
            if should_stop is not None and should_stop():
                raise Stopped("the evaluation was stopped", code="evaluation.stopped")
            if len(pack.labels_L):
                rows_L = np.asarray(pack.rows, dtype=np.int64)[pack.label_rows_L]
                losses_L, hits_L = _losses_L(model, pack, label_losses, layout)
                np.add.at(sums_B, rows_L, losses_L)
                np.add.at(hits_B, rows_L, hits_L)
                np.add.at(counts_B, rows_L, 1)
        if on_progress is not None:
            on_progress(min(start + ROWS_AT_ONCE, len(order)))
    return RowLosses(tuple(sums_B.tolist()), tuple(counts_B.tolist()), tuple(hits_B.tolist()))


def _losses_L(
    model: Any, pack: Pack, label_losses: LabelLosses, layout: Layout
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    bfloat16 = layout.precision == "bfloat16"
    enough = telling_memory_errors(
        "not enough memory to measure held-out rows",
        place="train.tokens_per_micro_batch",
        value=f"{pack.tokens} tokens",
        hint="lower train.tokens_per_micro_batch, or measure a smaller model",
    )
    # Not inference_mode: weights that ranks gather here would be of no use to training afterwards.
    with enough, torch.no_grad(), torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        losses_L, hits_L = label_losses(model, pack)
        return losses_L.double().cpu().numpy(), hits_L.long().cpu().numpy()
