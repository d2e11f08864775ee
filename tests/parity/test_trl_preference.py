"""Preference losses and their gradients against those of TRL, on TRL's own batches.

What differs, and why the tests divide as they do: TRL takes a mean over each micro-batch, here sums of a whole step
are divided once. TRL's ORPO learns the chosen prompt too, here only answers are learned, so the two parts are compared
apart. TRL's KTO pairs each prompt with the answer of the example before it; its pairs are handed in here. TRL smooths
labels only in its loss over sorted pairs, which for one pair alone is the smoothed sigmoid loss.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_model_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.data.packs import lay_out
from tunesmith.data.types import TokenRow
from tunesmith.objectives.table import make_objective
from tunesmith.recipe.objectives import Dpo, Kto, Orpo

trl = pytest.importorskip("trl", reason="the parity of preference losses needs TRL")
datasets = pytest.importorskip("datasets", reason="the parity of preference losses needs TRL")

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's own

WORDS = ("red", "blue stone", "green", "a long way down the street")
Numbered = list[tuple[int, TokenRow]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_model_folder("llama", tmp_path / "model")


def adapted(folder: Path) -> Any:
    """A model with an adapter that does nothing yet; TRL takes it as it is handed over for the reference."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))


def moved(model: Any) -> Any:
    """The same with an adapter that does something."""
    numbers = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=numbers)
    return model


def settings(config: Any, tmp_path: Path, rows: int, **options: Any) -> Any:
    return config(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=rows,
        report_to=[],
        bf16=False,
        use_cpu=True,
        beta=0.3,
        gradient_checkpointing=False,
        **options,
    )


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def theirs(trainer: Any, batch: Any) -> tuple[float, dict[str, torch.Tensor]]:
    moved(trainer.model).eval()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return float(loss.detach()), gradients(trainer.model)


def ours(model: Any, spec: Any, rows: Numbered, companions: Numbered = ()) -> tuple[float, dict[str, torch.Tensor]]:
    model.eval()
    objective = make_objective(spec)
    packs = lay_out(rows, tokens_per_micro_batch=1, layout="padded")
    others = lay_out(companions, tokens_per_micro_batch=1, layout="padded") if companions else ()
    with torch.no_grad():
        sums = objective.step_sums(model, packs, others)
    total = 0.0
    for pack in packs:
        loss = objective.loss(model, pack, sums).total / sums[0]
        loss.backward()
        total += float(loss.detach())
    return total, gradients(model)


def assert_equal(found: tuple[float, Any], expected: tuple[float, Any]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    assert set(found[1]) == set(expected[1])
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=2e-3, atol=2e-5)


def row(ids: torch.Tensor, there: torch.Tensor, trained: torch.Tensor, kind: int) -> TokenRow:
    kept = there.bool().cpu().numpy()
    return TokenRow(ids.cpu().numpy()[kept].astype(np.int64), trained.bool().cpu().numpy()[kept], "batch:1", None, kind)


def pairs(count: int) -> Any:
    return datasets.Dataset.from_list(
        [
            {"prompt": f"message {at} goes", "chosen": f" {WORDS[at % 4]} up", "rejected": f" {WORDS[(at + 1) % 4]} no"}
            for at in range(count)
        ]
    )


@pytest.mark.parametrize(
    ("count", "options", "spec"),
    [
        (3, {"loss_type": "sigmoid"}, Dpo(beta=0.3)),
        (3, {"loss_type": "ipo"}, Dpo(beta=0.3, loss="ipo")),
        (1, {"loss_type": "aot", "label_smoothing": 0.2}, Dpo(beta=0.3, label_smoothing=0.2)),
    ],
    ids=["sigmoid", "ipo", "label_smoothing"],
)
def test_dpo(folder: Path, tmp_path: Path, count: int, options: dict[str, Any], spec: Dpo) -> None:
    model = adapted(folder)
    trainer = trl.DPOTrainer(
        model=copy.deepcopy(model),
        args=settings(trl.DPOConfig, tmp_path, count, **options),
        train_dataset=pairs(count),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    rows = [
        (at % count, row(*one, kind=int(at < count)))
        for at, one in enumerate(
            zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True)
        )
    ]
    rows.sort(key=lambda numbered: (numbered[0], -numbered[1].kind))
    assert_equal(ours(moved(model), spec, rows), theirs(trainer, batch))


def test_kto(folder: Path, tmp_path: Path) -> None:
    model = adapted(folder)
    rated = [
        {"prompt": f"message {at} goes", "completion": f" {WORDS[at % 4]} up", "label": at % 3 != 0} for at in range(4)
    ]
    trainer = trl.KTOTrainer(
        model=copy.deepcopy(model),
        args=settings(trl.KTOConfig, tmp_path, 4, desirable_weight=1.3, undesirable_weight=0.7),
        train_dataset=datasets.Dataset.from_list(rated),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    names = ("input_ids", "attention_mask", "completion_mask")
    rows, mixed = (
        [
            (at, row(*one, kind=int(batch["label"][at])))
            for at, one in enumerate(zip(*(batch[f"{prefix}{name}"] for name in names), strict=True))
        ]
        for prefix in ("", "KL_")
    )
    spec = Kto(beta=0.3, desirable_weight=1.3, undesirable_weight=0.7)
    assert_equal(ours(moved(model), spec, rows, mixed), theirs(trainer, batch))


def test_orpo(folder: Path, tmp_path: Path) -> None:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    model = adapted(folder)
    trainer = ORPOTrainer(
        model=copy.deepcopy(model),
        args=settings(ORPOConfig, tmp_path, 3),
        train_dataset=pairs(3),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    rows = [
        (at, row(ids, there, labels != -100, kind))
        for kind, side in ((1, "chosen"), (0, "rejected"))
        for at, (ids, there, labels) in enumerate(
            zip(*(batch[f"{side}_{name}"] for name in ("input_ids", "attention_mask", "labels")), strict=True)
        )
    ]
    rows.sort(key=lambda numbered: (numbered[0], -numbered[1].kind))
    # The part of the odds alone: what a greater weight adds, for the cross entropy does not depend on it.
    one, two = (ours(moved(copy.deepcopy(model)), Orpo(beta=beta), rows) for beta in (0.3, 0.6))
    moved(trainer.model).eval()
    chosen, rejected, *_ = trainer.concatenated_forward(trainer.model, batch)
    odds = -trainer.odds_ratio_loss(chosen, rejected)[0].mean()
    odds.backward()
    added = {name: two[1][name] - one[1][name] for name in one[1]}
    assert_equal((two[0] - one[0], added), (float(odds.detach()), gradients(trainer.model)))
    # And the cross entropy, over tokens of chosen answers.
    labels = torch.cat(
        [torch.from_numpy(np.where(one.trained_T, one.token_ids_T, -100)) for _, one in rows if one.kind]
    )
    assert one[0] - float(odds.detach()) == pytest.approx(
        _cross_entropy(moved(model), rows, int((labels != -100).sum())), rel=1e-4
    )


def _cross_entropy(model: Any, rows: Numbered, tokens: int) -> float:
    total = 0.0
    for _, one in rows:
        if one.kind:
            labels = torch.from_numpy(np.where(one.trained_T, one.token_ids_T, -100))[None]
            with torch.no_grad():
                loss = model(input_ids=torch.from_numpy(one.token_ids_T)[None], labels=labels).loss
            total += float(loss) * int(one.trained_T.sum())
    return total / tokens
