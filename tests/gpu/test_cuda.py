"""What only a GPU can show: the kernel's attention equals the plain one, and trainings there go as on a CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import counting_rows, packed_model

from tunesmith.data.packs import lay_out
from tunesmith.data.steps import plan_steps
from tunesmith.engine.checkpoint import Checkpoints
from tunesmith.engine.settings import TrainSettings
from tunesmith.engine.train import train
from tunesmith.models import attention
from tunesmith.objectives.label_loss import LabelLoss
from tunesmith.runs.events import open_events, read_events
from tunesmith.strategies.table import make_strategy
from tunesmith.techniques.lora import Lora

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use"),
]


def loss_and_gradients(model, rows, *, share_prefix):
    packs = lay_out(rows, tokens_per_micro_batch=512, share_prefix=share_prefix)
    model.zero_grad()
    total = 0.0
    for pack in packs:
        result = LabelLoss().loss(model, pack, ())
        result.total.backward()
        total += float(result.total.detach())
    return total, {name: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["llama", "mistral", "phi3", "qwen3", "gemma3_text"])
@pytest.mark.parametrize("share_prefix", [False, True])
def test_the_kernel_gives_what_plain_attention_gives(monkeypatch, tmp_path: Path, family, share_prefix):
    rows = list(enumerate(counting_rows(12, shared=30).rows))
    model = packed_model(family, tmp_path, dtype=torch.bfloat16).to("cuda")
    with_kernel = loss_and_gradients(model, rows, share_prefix=share_prefix)
    plain = attention.plan_attention
    monkeypatch.setattr("tunesmith.models.forward.plan_attention", lambda *args: replace(plain(*args), varlen=None))
    without = loss_and_gradients(model, rows, share_prefix=share_prefix)
    assert with_kernel[0] == pytest.approx(without[0], rel=1e-2)
    for name, gradient in without[1].items():
        assert float((with_kernel[1][name] - gradient).norm()) <= 0.05 * float(gradient.norm()) + 1e-3, name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_on_the_gpu_falls_like_one_on_the_cpu(tmp_path: Path, precision):
    losses = {}
    for device in ("cpu", "cuda"):
        technique = Lora(rank=4, alpha=8)
        model = technique.prepare(packed_model("llama", tmp_path / device / "base").to(device), seed=0)
        rows = counting_rows(24)
        train(
            model,
            technique=technique,
            objective=LabelLoss(),
            strategy=make_strategy("single", device),
            rows=rows,
            steps=plan_steps(rows.lengths_B, tokens_per_step=80, seed=0),
            settings=TrainSettings(total_steps=12, learning_rate=1e-2, precision=precision),
            checkpoints=Checkpoints(tmp_path / device / "checkpoints"),
            events=open_events(tmp_path / device / "events.jsonl"),
            read_wish=lambda: "continue",
        )
        steps = [event for event in read_events(tmp_path / device / "events.jsonl") if event.type == "step"]
        assert all(event.data["memory_bytes"] > 0 for event in steps)
        losses[device] = [event.data["loss"] for event in steps]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-3 if precision == "float32" else 5e-2)
