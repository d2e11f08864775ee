"""The same training under every layout, however often it was interrupted; and the same as it was last year.

``python tests/invariant/test_training.py`` (with ``tests`` on PYTHONPATH) writes the committed trajectories anew.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_training import TinyRun, counting_rows, packed_model, train_tiny

from tunesmith.engine.mode import training_mode
from tunesmith.techniques.full import Full
from tunesmith.techniques.lora import Lora

TECHNIQUES = {"lora": Lora(rank=4, alpha=8), "full": Full()}
TRAJECTORIES = Path(__file__).parent / "trajectories.json"


def run(folder: Path, technique: str = "lora", *, dtype: torch.dtype = torch.float32, **settings: Any) -> TinyRun:
    chosen = TECHNIQUES[technique]
    model = chosen.prepare(packed_model("llama", folder / "model", dtype=dtype), seed=0)
    return train_tiny(model, chosen, folder / "run", rows=counting_rows(24), **settings)


def assert_same_trajectory(one: TinyRun, other: TinyRun, tolerance: float = 1e-6) -> None:
    """Equal within what adding in another order does: the fp64 model rounds to fp32 in norms and rotations only."""
    assert list(one.losses) == list(other.losses)
    torch.testing.assert_close(
        torch.tensor(list(one.losses.values())), torch.tensor(list(other.losses.values())), rtol=tolerance, atol=0.0
    )
    norms = [torch.tensor([e.data["gradient_norm"] for e in run.of_type("step")]) for run in (one, other)]
    torch.testing.assert_close(norms[0], norms[1], rtol=10 * tolerance, atol=0.0)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TinyRun]:
    """One row a forward, nothing shared, nothing recomputed: what the other layouts must equal."""
    return {
        name: run(
            tmp_path_factory.mktemp(name),
            name,
            dtype=torch.float64,
            layout="padded",
            share_prefix=False,
            tokens_per_micro_batch=1,
        )
        for name in TECHNIQUES
    }


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize(
    "layout",
    [
        pytest.param({"share_prefix": False, "tokens_per_micro_batch": 10_000}, id="whole step in one pack"),
        pytest.param({"share_prefix": False, "tokens_per_micro_batch": 40}, id="accumulated over packs"),
        pytest.param({"share_prefix": True, "tokens_per_micro_batch": 10_000}, id="prefix shared"),
        pytest.param({"share_prefix": True, "tokens_per_micro_batch": 40}, id="prefix shared in small packs"),
        pytest.param({"activation_checkpointing": True}, id="activation checkpointing"),
        pytest.param({"activation_checkpointing": 1}, id="activation checkpointing of one layer"),
    ],
)
def test_layouts_give_one_trajectory(
    tmp_path: Path, plain: dict[str, TinyRun], technique: str, layout: dict[str, Any]
) -> None:
    assert_same_trajectory(run(tmp_path, technique, dtype=torch.float64, **layout), plain[technique])


def test_layouts_differ_in_what_they_compute(tmp_path: Path) -> None:
    # If prefixes were never shared and packs never split, the test above would compare equal things.
    from tunesmith.data.packs import lay_out

    rows = list(enumerate(counting_rows(8).rows))
    whole = lay_out(rows, tokens_per_micro_batch=10_000, layout="packed", share_prefix=False)
    shared = lay_out(rows, tokens_per_micro_batch=10_000, layout="packed", share_prefix=True)
    small = lay_out(rows, tokens_per_micro_batch=40, layout="packed", share_prefix=False)
    assert len(whole) == 1
    assert len(small) > 1
    assert sum(pack.tokens for pack in shared) < whole[0].tokens


def test_activation_checkpointing_computes_layers_twice_and_leaves_no_trace(tmp_path: Path) -> None:
    calls = {}
    for checkpointing in (False, True):
        technique = TECHNIQUES["lora"]
        model = packed_model("llama", tmp_path / f"model-{checkpointing}")
        counted = []
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, into=counted: into.append(1))
        model = technique.prepare(model, seed=0)
        train_tiny(
            model,
            technique,
            tmp_path / f"run-{checkpointing}",
            rows=counting_rows(24),
            total_steps=2,
            activation_checkpointing=checkpointing,
        )
        calls[checkpointing] = len(counted)
        assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        assert not model.get_input_embeddings()._forward_hooks
        assert not model.training
    assert calls[True] == 2 * calls[False]


def test_only_so_many_layers_compute_again(tmp_path: Path) -> None:
    model = packed_model("llama", tmp_path)
    with training_mode(model, activation_checkpointing=1):
        again = [layer.gradient_checkpointing for layer in model.model.layers]
    assert again == [True] + [False] * (len(model.model.layers) - 1)
    assert not any(layer.gradient_checkpointing for layer in model.model.layers)


@pytest.mark.parametrize(("technique", "dropout"), [("lora", 0.0), ("lora", 0.3), ("full", 0.0)])
def test_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, technique: str, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dropout:
        monkeypatch.setitem(TECHNIQUES, "lora", Lora(rank=4, alpha=8, dropout=dropout))
    whole = run(tmp_path / "whole", technique, total_steps=7)
    for steps_of_attempt, stopped in ((2, "pause"), (3, "pause"), (9, None)):
        wishes = iter(["continue"] * steps_of_attempt + ["pause"])
        parts = run(tmp_path / "parts", technique, total_steps=7, read_wish=wishes.__next__)
        assert parts.result.stopped == stopped
    assert parts.losses == whole.losses
    assert len({event.attempt for event in parts.of_type("step")}) == 3
    assert parts.weights.keys() == whole.weights.keys()
    for name, tensor in whole.weights.items():
        assert torch.equal(parts.weights[name], tensor), name
    assert parts.result.tokens == whole.result.tokens
    assert parts.result.trained_tokens == whole.result.trained_tokens


def test_dropout_is_off_unless_asked_for(tmp_path: Path) -> None:
    quiet = run(tmp_path / "quiet", total_steps=2)
    folder = tmp_path / "noisy"
    model = packed_model("llama", folder / "model")
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    technique = TECHNIQUES["lora"]
    noisy = train_tiny(
        technique.prepare(model, seed=0), technique, folder / "run", rows=counting_rows(24), total_steps=2
    )
    assert noisy.losses == quiet.losses


def test_the_rows_of_a_step_do_not_depend_on_layout(tmp_path: Path) -> None:
    small = run(tmp_path / "small", tokens_per_micro_batch=20, total_steps=4)
    large = run(tmp_path / "large", tokens_per_micro_batch=10_000, layout="padded", total_steps=4)
    tokens = [[(e.data["tokens"], e.data["trained_tokens"]) for e in r.of_type("step")] for r in (small, large)]
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_committed_trajectory(tmp_path: Path, technique: str) -> None:
    committed = json.loads(TRAJECTORIES.read_text())
    expected = torch.tensor(committed["losses"][technique], dtype=torch.float64)
    found = torch.tensor(trajectory(tmp_path, technique), dtype=torch.float64)
    told = f"written with {committed['versions']}"
    assert torch.allclose(found, expected, rtol=2e-4, atol=0.0), told
    # Rounding goes either way; a change of the method moves all steps the same way, and then the mean moves too.
    assert abs(float((found / expected - 1.0).mean())) < 5e-5, told


def trajectory(folder: Path, technique: str) -> list[float]:
    return list(run(folder, technique, total_steps=8).losses.values())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        losses = {name: trajectory(Path(scratch) / name, name) for name in TECHNIQUES}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    TRAJECTORIES.write_text(json.dumps({"versions": versions, "losses": losses}, indent=1) + "\n")
