"""LoRA against its owner: what is saved loads in PEFT with equal logits, and training goes where PEFT's own would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_training import counting_rows, packed_model, train_tiny

from tunesmith.data.packs import lay_out
from tunesmith.data.steps import plan_steps
from tunesmith.objectives.label_loss import LabelLoss, label_losses
from tunesmith.techniques.lora import Lora

# PEFT asks for a property by a name that Transformers has just deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

FAMILIES = ("llama", "phi3", "gemma2")
TEXT = torch.arange(20, 40)[None]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_adapter_loads_in_peft_with_equal_logits(tmp_path: Path, family: str) -> None:
    technique = Lora(rank=4, alpha=8)
    model = technique.prepare(packed_model(family, tmp_path / "base"), seed=0)
    train_tiny(model, technique, tmp_path / "run", rows=counting_rows(24), total_steps=3)
    (tmp_path / "adapter").mkdir()
    technique.save(model, tmp_path / "adapter", base_model="a-base-model")

    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    before = base(TEXT).logits
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    model.get_base_model().set_attn_implementation("eager")
    assert torch.equal(loaded(TEXT).logits, model(TEXT).logits)
    assert not torch.allclose(loaded(TEXT).logits, before, atol=1e-2)
    assert loaded.peft_config["default"].base_model_name_or_path == "a-base-model"
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_equal_those_of_transformers(tmp_path: Path, family: str) -> None:
    technique = Lora(rank=4, alpha=8)
    ours = technique.prepare(packed_model(family, tmp_path / "base", dtype=torch.float64), seed=0)
    theirs = technique.prepare(
        transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "base", attn_implementation="eager", dtype=torch.float64
        ),
        seed=0,
    )
    _spread(ours, theirs)
    rows = counting_rows(1)
    (pack,) = lay_out(list(enumerate(rows.rows)), tokens_per_micro_batch=100, layout="packed", share_prefix=False)
    result = LabelLoss().loss(ours, pack, ())
    result.total.backward()
    labels = np.where(rows[0].trained_T, rows[0].token_ids_T, -100)
    expected = theirs(torch.tensor(rows[0].token_ids_T[None]), labels=torch.tensor(labels[None])).loss * len(
        pack.labels_L
    )
    expected.backward()
    torch.testing.assert_close(result.total, expected, rtol=1e-6, atol=0, check_dtype=False)
    torch.testing.assert_close(label_losses(ours, pack).sum(), result.total.detach())
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.requires_grad}
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            # Transformers' loss is fp32 also in an fp64 model.
            assert float((parameter.grad - gradients[name]).norm()) < 1e-5 * float(gradients[name].norm()), name


def test_training_equals_a_plain_loop_over_peft(tmp_path: Path) -> None:
    rows = counting_rows(24)
    technique = Lora(rank=4, alpha=8)
    model = technique.prepare(packed_model("llama", tmp_path / "base", dtype=torch.float64), seed=0)
    settings: dict[str, Any] = {"total_steps": 5, "learning_rate": 1e-2, "schedule": "constant", "warmup": 0.0}
    run = train_tiny(model, technique, tmp_path / "run", rows=rows, weight_decay=0.1, clip=0.5, **settings)

    base = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", attn_implementation="sdpa", dtype=torch.float64
    )
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=names))
    optimizer = torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    steps = plan_steps(rows.lengths_B, tokens_per_step=80, seed=0)
    for step in range(5):
        chosen = [rows[row] for row in steps.rows_of(step).tolist()]
        count = sum(int(row.trained_T.sum()) for row in chosen)
        loss = torch.zeros((), dtype=torch.float64)
        for row in chosen:
            logits = plain(torch.tensor(row.token_ids_T[None])).logits[0, :-1]
            labels = torch.tensor(np.where(row.trained_T, row.token_ids_T, -100))[1:]
            loss = loss + torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        (loss / count).backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        event = run.of_type("step")[step]
        assert event.data["loss"] == pytest.approx(float(loss.detach() / count), rel=1e-6)
        assert event.data["gradient_norm"] == pytest.approx(float(norm), rel=1e-5)
        assert float(norm) > 0.5


def _spread(*models: torch.nn.Module) -> None:
    """Give the adapters, whose second matrix starts at zero, equal values that are not zero."""
    for model in models:
        numbers = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=numbers, dtype=parameter.dtype)
