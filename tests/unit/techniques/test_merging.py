"""A merge is compared on whatever a model scores: next tokens, labels of a head, ends of answers, written tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_encoder_folder, tiny_model_folder, tiny_seq2seq_folder

from tunesmith.catalog.heads import Head
from tunesmith.data.types import TokenRow
from tunesmith.models.load import LoadPlan, load_model
from tunesmith.techniques.merging import logits_of, merge_difference

TOKENS = np.arange(3, 15)
ROW = TokenRow(TOKENS, np.arange(12) > 5, "rows.jsonl:1")


@pytest.mark.parametrize(
    ("make", "head", "shape"),
    [
        (tiny_encoder_folder, Head("sequence_classification", ("a", "b", "c")), (1, 3)),
        (tiny_encoder_folder, Head("token_classification", ("O", "B-x", "I-x")), (12, 3)),
        (tiny_encoder_folder, Head("question_answering"), (12, 2)),
        (tiny_seq2seq_folder, None, (12, 400)),
        (lambda folder: tiny_model_folder("llama", folder), None, (12, 400)),
    ],
)
def test_every_kind_of_model_is_compared(tmp_path: Path, make, head: Head | None, shape: tuple[int, int]) -> None:
    model = load_model(LoadPlan(make(tmp_path / "model"), attention="sdpa", head=head))
    before = logits_of(model, [ROW])
    assert [tuple(one.shape) for one in before] == [shape]
    assert merge_difference(before, logits_of(model, [ROW])).largest == 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    changed = merge_difference(before, logits_of(model, [ROW]))
    assert changed.largest > changed.mean > 0
    assert changed.tokens == shape[0]
