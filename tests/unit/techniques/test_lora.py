from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import FAMILIES
from tiny_training import packed_model

from tunesmith.errors import ModelError, OutputError
from tunesmith.techniques.full import Full
from tunesmith.techniques.lora import Lora
from tunesmith.techniques.targets import adaptable_layers, target_names

ATTENTION_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP_LAYERS = ["gate_proj", "up_proj", "down_proj"]


def adapted(model: Any) -> set[str]:
    return {
        name.partition(".lora_A")[0].rpartition("model.")[2] for name, _ in model.named_modules() if "lora_A.d" in name
    }


def test_all_linear_is_every_linear_layer_of_the_decoder(tmp_path: Path) -> None:
    model = packed_model("llama", tmp_path)
    assert target_names(model, "all-linear") == ATTENTION_LAYERS + MLP_LAYERS
    prepared = Lora().prepare(model, seed=0)
    assert len(adapted(prepared)) == 2 * 7
    assert not any("lm_head" in name or "embed" in name for name in adapted(prepared))


def test_fused_projections(tmp_path: Path) -> None:
    model = packed_model("phi3", tmp_path)
    assert target_names(model, "all-linear") == ["o_proj", "qkv_proj", "gate_up_proj", "down_proj"]
    assert target_names(model, "attention") == ["o_proj", "qkv_proj"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_layers_to_adapt(tmp_path: Path, family: str) -> None:
    model = packed_model(family, tmp_path)
    assert {"o_proj", "down_proj"} <= set(target_names(model, "all-linear"))
    assert set(target_names(model, "attention")) <= {*ATTENTION_LAYERS, "qkv_proj"}


def test_names_stand_for_layers_as_peft_reads_them(tmp_path: Path) -> None:
    model = packed_model("llama", tmp_path)
    names = ["v_proj", "self_attn.q_proj", "model.layers.1.mlp.up_proj", "v_proj"]
    prepared = Lora(targets=names).prepare(model, seed=0)
    assert adapted(prepared) == {
        "layers.0.self_attn.q_proj",
        "layers.1.self_attn.q_proj",
        "layers.0.self_attn.v_proj",
        "layers.1.self_attn.v_proj",
        "layers.1.mlp.up_proj",
    }


def test_all_wrong_names_are_told_at_once_with_those_that_exist(tmp_path: Path) -> None:
    model = packed_model("llama", tmp_path)
    with pytest.raises(ModelError) as caught:
        Lora(targets=["q_proj", "query", "proj", "lm_head"]).prepare(model, seed=0)
    assert [problem.value for problem in caught.value.problems] == ["query", "proj", "lm_head"]
    assert ", ".join(ATTENTION_LAYERS + MLP_LAYERS) in str(caught.value)
    with pytest.raises(ModelError, match="q_proj"):
        target_names(model, [])


def test_a_short_name_that_would_catch_more_is_spelled_out() -> None:
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList(
        [torch.nn.ModuleDict({"attn": torch.nn.ModuleDict({"proj": torch.nn.Linear(2, 2)})})]
    )
    model.proj = torch.nn.Linear(2, 2)
    assert target_names(model, "all-linear") == ["layers.0.attn.proj"]
    with pytest.raises(ModelError, match="no linear layers"):
        target_names(torch.nn.Linear(2, 2), "all-linear")


def test_a_family_whose_linear_layers_are_stored_the_other_way(tmp_path: Path) -> None:
    config = transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=30, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(config)
    assert adaptable_layers(model) == [
        "transformer.h.0.attn.c_attn",
        "transformer.h.0.attn.c_proj",
        "transformer.h.0.mlp.c_fc",
        "transformer.h.0.mlp.c_proj",
    ]
    # This config asks for dropout; the recipe does not.
    assert config.resid_pdrop == 0.1
    prepared = Lora(rank=2).prepare(model, seed=0).train()
    tokens = torch.arange(6)[None]
    assert torch.equal(prepared(tokens).logits, prepared(tokens).logits)
    assert config.resid_pdrop == 0.1


def test_dropout_when_asked_for(tmp_path: Path) -> None:
    prepared = Lora(dropout=0.4).prepare(packed_model("llama", tmp_path), seed=0)
    rates = [module.p for module in prepared.modules() if isinstance(module, torch.nn.Dropout)]
    assert rates == [0.4] * 14


def test_full_trains_tied_weights_once(tmp_path: Path) -> None:
    model = Full().prepare(packed_model("llama", tmp_path), seed=0)
    state = Full().trainable_state(model)
    assert "lm_head.weight" not in state
    assert len(state) == len(list(model.parameters()))


def test_an_adapter_that_is_not_finite_is_not_merged(tmp_path: Path) -> None:
    technique = Lora(rank=2)
    model = technique.prepare(packed_model("llama", tmp_path), seed=0)
    next(iter(technique.trainable_state(model).values()))[0, 0] = float("nan")
    with pytest.raises(ModelError, match="cannot be merged"):
        technique.merge(model)


@pytest.mark.parametrize("technique", [Lora(rank=64), Full()], ids=["adapter", "model"])
def test_a_full_disk_is_told(tmp_path: Path, technique: Any) -> None:
    model = technique.prepare(packed_model("llama", tmp_path / "base"), seed=0)
    (tmp_path / "out").mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OutputError) as caught:
            technique.save(model, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.code == "output.disk_full"
