"""What adapters begin as, and that the result still belongs to the model as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from tiny_training import counting_rows, packed_model, train_tiny

from tunesmith.data.packs import lay_out
from tunesmith.errors import ModelError
from tunesmith.models.attention import ATTENTION
from tunesmith.models.forward import label_logits
from tunesmith.techniques.lora import Lora

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
ROWS = counting_rows(24)
(PACK,) = lay_out([(0, ROWS[0])], tokens_per_micro_batch=100)
OPTIONS: dict[str, Any] = {"rank": 4, "alpha": 8.0, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3.0}}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return label_logits(model.eval(), PACK)


def load(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation=ATTENTION)


def trained(technique: Lora, folder: Path, read_wish: Any = lambda: "continue") -> tuple[Any, Any]:
    model = technique.prepare(load(folder / "base"), 0, ROWS.rows)
    return model, train_tiny(model, technique, folder / "run", rows=ROWS, total_steps=4, read_wish=read_wish)


@pytest.mark.parametrize("stabilized", [False, True])
@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("first", ["pissa", "olora", "eva", "gaussian"])
def test_the_saved_adapter_fits_the_model_as_it_was(
    tmp_path: Path, first: str, decomposed: bool, stabilized: bool
) -> None:
    technique = Lora(**OPTIONS, initialization=first, decomposed=decomposed, rank_stabilized=stabilized)
    before = logits(packed_model("llama", tmp_path / "base"))
    fresh = technique.prepare(load(tmp_path / "base"), 0, ROWS.rows)
    torch.testing.assert_close(logits(fresh), before, rtol=1e-4, atol=1e-4)
    model, _ = trained(technique, tmp_path)
    assert not torch.allclose(logits(model), before, atol=1e-2)
    technique.save(model, tmp_path / "saved") if (tmp_path / "saved").mkdir() is None else None
    loaded = peft.PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / "saved")
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(technique.merge(model)), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("first", ["pissa", "olora"])
def test_the_frozen_weights_lose_what_the_adapter_takes(tmp_path: Path, first: str) -> None:
    base = packed_model("llama", tmp_path / "base")
    old = base.model.layers[0].mlp.up_proj.weight.detach().clone()
    model = Lora(rank=4, initialization=first).prepare(base, 0)
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    assert not torch.allclose(layer.base_layer.weight, old, atol=1e-3)
    torch.testing.assert_close(layer.base_layer.weight + layer.get_delta_weight("default"), old)


def test_eva_begins_with_the_inputs_and_needs_enough_of_them(tmp_path: Path) -> None:
    technique = Lora(rank=4, initialization="eva")
    packed_model("llama", tmp_path / "base")
    model = technique.prepare(load(tmp_path / "base"), 0, ROWS.rows)
    again = technique.prepare(load(tmp_path / "base"), 1, ROWS.rows)
    state, other = technique.trainable_state(model), technique.trainable_state(again)
    assert all(torch.equal(state[name], other[name]) for name in state)
    first = next(tensor for name, tensor in state.items() if "lora_A" in name)
    torch.testing.assert_close(first @ first.T, torch.eye(len(first)), rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match="too few tokens"):
        technique.prepare(load(tmp_path / "base"), 0)


@pytest.mark.parametrize("first", ["pissa", "olora", "eva"])
def test_resume_is_exact(tmp_path: Path, first: str) -> None:
    technique = Lora(rank=4, initialization=first)
    for name in ("whole", "parts"):
        packed_model("llama", tmp_path / name / "base")
    _, whole = trained(technique, tmp_path / "whole")
    trained(technique, tmp_path / "parts", iter(["continue", "continue", "pause"]).__next__)
    _, parts = trained(technique, tmp_path / "parts")
    assert parts.losses == whole.losses
    assert all(torch.equal(parts.weights[name], value) for name, value in whole.weights.items())


def test_another_machine_with_other_factors_goes_on_from_the_same_weights(tmp_path: Path) -> None:
    technique = Lora(rank=4, initialization="pissa")
    packed_model("llama", tmp_path / "base")
    model, _ = trained(technique, tmp_path)
    state = {name: tensor.clone() for name, tensor in technique.trainable_state(model).items()}
    other = Lora(rank=4, initialization="olora")
    moved = other.prepare(load(tmp_path / "base"), 0)
    assert not torch.allclose(logits(moved), logits(model), atol=1e-2)
    other.load_trainable_state(moved, state)
    torch.testing.assert_close(logits(moved), logits(model), rtol=1e-4, atol=1e-4)


def test_a_rank_that_a_layer_has_no_room_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="smaller than the rank") as caught:
        Lora(rank=17, initialization="pissa", targets="attention").prepare(packed_model("llama", tmp_path), 0)
    assert {problem.place.rpartition(".")[2] for problem in caught.value.problems if problem.place} == {
        "k_proj",
        "v_proj",
    }


def test_patterns_and_scales(tmp_path: Path) -> None:
    technique = Lora(
        rank=4,
        alpha=8.0,
        rank_stabilized=True,
        rank_pattern={"q_proj": 2, "model.layers.1.self_attn.q_proj": 9},
        alpha_pattern={"mlp.up_proj": 6.0},
    )
    layers = technique.prepare(packed_model("llama", tmp_path), 0).base_model.model.model.layers
    assert layers[0].self_attn.q_proj.lora_A["default"].weight.shape[0] == 2
    assert layers[1].self_attn.q_proj.lora_A["default"].weight.shape[0] == 9
    assert layers[0].self_attn.k_proj.scaling["default"] == 8.0 / 2
    assert layers[0].mlp.up_proj.scaling["default"] == 6.0 / 2
    with pytest.raises(ModelError) as caught:
        Lora(rank_pattern={"q": 2}, targets=["q_proj"]).prepare(packed_model("llama", tmp_path), 0)
    assert caught.value.problems[0].place == "technique.rank_pattern"
    assert "q_proj" in str(caught.value.problems[0].hint)


def test_b_matrices_learn_faster_where_asked_for(tmp_path: Path) -> None:
    technique = Lora(rank=4, learning_rate_ratio=16.0)
    model = technique.prepare(packed_model("llama", tmp_path / "base"), 0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = technique.parameter_groups(model, 0.1)
    assert {
        group.get("rate_scale", 1.0): {".lora_B." in names[id(one)] for one in group["params"]} for group in groups
    } == {
        1.0: {False},
        16.0: {True},
    }
    run = train_tiny(model, technique, tmp_path / "run", rows=ROWS, total_steps=1, schedule="constant", warmup=0.0)
    # The first step of Adam moves each weight by its rate.
    moves = {".lora_B." in name: float(tensor.abs().max()) for name, tensor in run.weights.items() if "lora_B" in name}
    assert moves[True] == pytest.approx(16 * 1e-2, rel=1e-2)
