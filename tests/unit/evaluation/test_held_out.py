"""Held-out rows: losses, and how many tokens were the likeliest, are told row by row however rows are laid out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from tiny_training import counting_rows, packed_model

from tunesmith.data.packs import lay_out
from tunesmith.evaluation.held_out import Layout, RowLosses, held_out_losses
from tunesmith.models.forward import label_logits
from tunesmith.objectives.label_loss import label_losses, next_token_losses


@pytest.mark.parametrize(("name", "tokens"), [("packed", 1000), ("padded", 1)])
def test_hits_are_the_tokens_with_the_highest_score(
    name: Literal["packed", "padded"], tokens: int, tmp_path: Path
) -> None:
    model, rows = packed_model("llama", tmp_path), counting_rows(7)
    items = [rows.item(at) for at in range(7)]
    found = held_out_losses(model, items, next_token_losses, Layout(tokens, name))
    for at, row in enumerate(rows.rows):
        (alone,) = lay_out([(0, row)], tokens_per_micro_batch=1000)
        best_L = label_logits(model, alone).argmax(-1).numpy()
        assert found.hits_B[at] == int((best_L == alone.labels_L).sum())
        assert found.loss_sums_B[at] == pytest.approx(float(label_losses(model, alone).sum()), rel=1e-4)
    assert found.accuracy == pytest.approx(sum(found.hits_B) / int(rows.trained_counts_B.sum()))


def test_no_accuracy_is_told_where_nobody_counted() -> None:
    assert RowLosses((1.0,), (2,)).accuracy is None
