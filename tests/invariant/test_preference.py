"""Preference losses do not depend on how a step is laid out: accumulated, packed, behind a shared prefix, or alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from recipe_cases import recipe
from tiny_training import packed_model

from tunesmith.data.packs import lay_out
from tunesmith.data.types import TokenRow
from tunesmith.errors import ModelError
from tunesmith.objectives.row_scores import reference_sums, row_scores
from tunesmith.objectives.table import make_objective
from tunesmith.recipe.objectives import Dpo, Kto, Orpo
from tunesmith.techniques.lora import Lora
from tunesmith.techniques.table import make_technique

SPECS = {
    "dpo": Dpo(label_smoothing=0.1),
    "ipo": Dpo(loss="ipo"),
    "orpo": Orpo(beta=0.3),
    "kto": Kto(desirable_weight=1.3, undesirable_weight=0.7),
}
LAYOUTS = [
    {"tokens_per_micro_batch": 10_000, "share_prefix": False},
    {"tokens_per_micro_batch": 10_000, "share_prefix": True},
    {"tokens_per_micro_batch": 45, "share_prefix": True},
]


@pytest.fixture(autouse=True)
def _no_float32_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms and rotations of the library compute in float32 always, which would hide errors smaller than 1e-7."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def pairs(count: int = 5, *, seed: int = 0) -> list[tuple[int, TokenRow]]:
    numbers = np.random.default_rng(seed)
    rows = []
    for item in range(count):
        prompt = numbers.integers(3, 400, int(numbers.integers(6, 12)))
        for kind in (1, 0):
            answer = numbers.integers(3, 400, int(numbers.integers(2, 9)))
            tokens = np.concatenate([prompt, answer]).astype(np.int64)
            trained = np.arange(len(tokens)) >= len(prompt)
            rows.append((item, TokenRow(tokens, trained, f"pairs.jsonl:{item + 1}", kind=kind)))
    return rows


def adapted(folder: Path) -> torch.nn.Module:
    """A model whose adapter does something, so that it differs from its reference."""
    model = Lora(rank=4, alpha=8).prepare(packed_model("llama", folder, dtype=torch.float64), seed=0)
    numbers = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=numbers, dtype=torch.float64)
    return model


def step(model: torch.nn.Module, name: str, rows: list[tuple[int, TokenRow]], **layout: object):
    """Loss, metrics and gradients of one step."""
    objective = make_objective(SPECS[name])
    model.zero_grad(set_to_none=True)
    packs = lay_out(rows, **layout)
    companions = lay_out(objective.companions(rows), **layout)
    with torch.no_grad():
        known = objective.step_sums(model, packs, companions)
    sums: dict[str, float] = {}
    for pack in packs:
        found = objective.loss(model, pack, known)
        (found.total / known[0]).backward()
        for key, value in {"loss": found.total.detach(), **found.metrics}.items():
            sums[key] = sums.get(key, 0.0) + float(value) / known[0]
    return sums, {key: one.grad.clone() for key, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("name", SPECS)
def test_layouts_give_one_step(tmp_path: Path, name: str) -> None:
    model, rows = adapted(tmp_path), pairs()
    sums, gradients = step(model, name, rows, tokens_per_micro_batch=1, layout="padded")
    assert gradients
    assert all(float(one.abs().max()) > 0 for one in gradients.values())
    for layout in LAYOUTS:
        other_sums, other_gradients = step(model, name, rows, **layout)
        assert other_sums == pytest.approx(sums, rel=1e-6, abs=1e-9)
        for key, gradient in gradients.items():
            torch.testing.assert_close(other_gradients[key], gradient, rtol=1e-5, atol=1e-8)


def test_an_untrained_adapter_gains_nothing(tmp_path: Path) -> None:
    model = Lora(rank=4).prepare(packed_model("llama", tmp_path, dtype=torch.float64), seed=0)
    sums, _ = step(model, "kto", pairs(), tokens_per_micro_batch=60)
    assert sums["drift"] == pytest.approx(0.0, abs=1e-9)
    assert sums["loss"] == pytest.approx(0.5)
    sums, _ = step(model, "dpo", pairs(), tokens_per_micro_batch=60)
    assert sums["loss"] == pytest.approx(np.log(2))
    assert sums["reward_margin"] == pytest.approx(0.0, abs=1e-9)


def test_a_model_without_an_adapter_has_no_reference(tmp_path: Path) -> None:
    model = packed_model("llama", tmp_path)
    (pack, *_) = lay_out(pairs(), tokens_per_micro_batch=1000)
    with pytest.raises(ModelError) as caught:
        make_objective(SPECS["dpo"]).loss(model, pack, (5.0,))
    assert caught.value.code == "model.no_adapter"


@pytest.mark.parametrize("technique", ["prompt_tuning", "prefix_tuning"])
def test_virtual_tokens_are_off_for_the_reference_and_on_again_behind_it(tmp_path: Path, technique: str) -> None:
    model = packed_model("llama", tmp_path, dtype=torch.float64)
    (pack, *_) = lay_out(pairs(), tokens_per_micro_batch=1000)
    before_S = row_scores(model, pack).sums_S.detach()
    model = make_technique(recipe(f"technique={technique}").technique).prepare(model, seed=0).eval()
    with_tokens_S = row_scores(model, pack).sums_S.detach()
    assert not torch.allclose(with_tokens_S, before_S)
    torch.testing.assert_close(reference_sums(model, pack), before_S)
    torch.testing.assert_close(row_scores(model, pack).sums_S.detach(), with_tokens_S)


def test_companions_pair_prompts_with_answers_of_the_next_item() -> None:
    rows = pairs(3)
    found = make_objective(SPECS["kto"]).companions(rows)
    assert [item for item, _ in found] == [0, 0, 1, 1, 2, 2]
    longest = max(len(row.token_ids_T) for _, row in rows)
    for (_, row), (_, other), (_, mixed) in zip(rows, [*rows[2:], *rows[:2]], found, strict=True):
        prompt, answer = row.token_ids_T[~row.trained_T], other.token_ids_T[other.trained_T]
        assert mixed.token_ids_T.tolist() == [*prompt, *answer][:longest]
        assert mixed.trained_T.any()
    assert make_objective(SPECS["kto"]).companions(pairs(1)) == ()
