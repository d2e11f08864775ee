from __future__ import annotations

import typing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_training import counting_rows, packed_model

from tunesmith.data.packs import lay_out
from tunesmith.errors import RecipeError
from tunesmith.models.forward import label_logits
from tunesmith.objectives import cross_entropy
from tunesmith.objectives.label_loss import LabelLoss, label_losses
from tunesmith.objectives.table import OBJECTIVES, make_objective
from tunesmith.recipe import objectives


@pytest.mark.parametrize("chunk_elements", [1, 70, 10_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_token_losses_equal_cross_entropy_in_value_and_gradient(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, chunk_elements: int
) -> None:
    monkeypatch.setattr(cross_entropy, "_CHUNK_ELEMENTS", chunk_elements)
    numbers = torch.Generator().manual_seed(0)
    # Large scores, so that exponentials would overflow without care.
    scores = (200 * torch.randn(11, 33, generator=numbers)).to(dtype)
    labels = torch.randint(0, 33, (11,), generator=numbers)
    labels[:4] = scores[:4].argmax(-1)
    weights = torch.rand(11, generator=numbers, dtype=torch.promote_types(dtype, torch.float32))
    ours, theirs = scores.clone().requires_grad_(True), scores.clone().requires_grad_(True)

    losses, hits = cross_entropy.token_losses(ours, labels)
    expected = torch.nn.functional.cross_entropy(theirs.to(losses.dtype), labels, reduction="none")
    (losses * weights).sum().backward()
    (expected * weights).sum().backward()

    assert losses.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert hits.tolist() == (scores.argmax(-1) == labels).tolist()
    assert hits[:4].all()


def test_scores_that_are_not_finite_give_losses_that_are_not_finite() -> None:
    scores = torch.zeros(2, 5)
    scores[1, 3] = float("nan")
    losses, _ = cross_entropy.token_losses(scores, torch.tensor([0, 0]))
    assert torch.isfinite(losses).tolist() == [True, False]


def test_loss_of_a_pack(tmp_path: Path) -> None:
    model = packed_model("llama", tmp_path)
    rows = counting_rows(5)
    (pack,) = lay_out(list(enumerate(rows.rows)), tokens_per_micro_batch=1000)
    sums = LabelLoss().step_sums(model, [pack], ())
    result = LabelLoss().loss(model, pack, sums)
    losses = label_losses(model, pack)
    assert sums[0] == sum(rows.trained_counts_B) == len(losses)
    assert float(result.total.detach()) == pytest.approx(float(losses.sum()))
    assert not losses.requires_grad
    best = label_logits(model, pack).argmax(-1).numpy()
    assert int(result.metrics["accuracy"]) == int((best == pack.labels_L).sum())


def test_label_losses_tell_rows_apart(tmp_path: Path) -> None:
    model = packed_model("llama", tmp_path)
    rows = list(enumerate(counting_rows(5).rows))
    (together,) = lay_out(rows, tokens_per_micro_batch=1000)
    by_row = np.zeros(5)
    np.add.at(by_row, np.array(together.rows)[together.label_rows_L], label_losses(model, together).numpy())
    for row in rows:
        (alone,) = lay_out([row], tokens_per_micro_batch=1000)
        assert float(label_losses(model, alone).sum()) == pytest.approx(by_row[row[0]], rel=1e-5)


def test_objectives_by_name() -> None:
    variants = {variant.model_fields["name"].default: variant for variant in typing.get_args(objectives.ObjectiveSpec)}
    assert OBJECTIVES.keys() == variants.keys()
    assert all(hasattr(make_objective(variants[name]()), "loss") for name in OBJECTIVES)
    with pytest.raises(RecipeError, match="sft"):
        make_objective(SimpleNamespace(name="sfft"))
