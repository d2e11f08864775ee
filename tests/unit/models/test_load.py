"""What loads, and what is refused before any weights are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import (
    CONTEXT_LENGTH,
    FAMILIES,
    VOCABULARY_SIZE,
    tiny_encoder_folder,
    tiny_model_folder,
    tiny_tokenizer,
)

from tunesmith.errors import ModelError
from tunesmith.models.load import LoadPlan, load_model, load_tokenizer, model_facts

TOKENS = torch.arange(3, 23)[None]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder("llama", tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_and_tells_its_facts(family: str, tmp_path: Path) -> None:
    folder = tiny_model_folder(family, tmp_path / family)
    model = load_model(LoadPlan(folder, attention="eager"))
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.inference_mode():
        assert torch.equal(model(TOKENS).logits, reference.eval()(TOKENS).logits)
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    facts = model_facts(folder)
    assert facts.parameters == sum(parameter.numel() for parameter in reference.parameters())
    assert (facts.name, facts.model_type, facts.kind) == (family, family, "causal")
    assert (facts.context_length, facts.vocabulary_size) == (CONTEXT_LENGTH, VOCABULARY_SIZE)
    assert (facts.hidden_size, facts.layers) == (32, reference.config.num_hidden_layers)
    assert facts.has_chat_template


def test_type_and_attention_are_as_planned(tiny: Path) -> None:
    model = load_model(LoadPlan(tiny, torch.bfloat16))
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "tunesmith_packed"
    assert load_model(LoadPlan(tiny, attention="sdpa")).config._attn_implementation == "sdpa"


def test_facts_need_no_weights_and_count_tied_ones_once(copy: Path, tiny: Path) -> None:
    (copy / "model.safetensors").unlink()
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (copy / name).unlink()
    facts = model_facts(copy, "my model")
    assert (facts.name, facts.has_chat_template) == ("my model", False)
    assert facts.parameters == model_facts(tiny).parameters
    _change(copy, tie_word_embeddings=False)
    assert model_facts(copy).parameters == facts.parameters + 32 * VOCABULARY_SIZE


def test_a_tokenizer_without_pad_gets_one_that_it_has(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.pad_token = None
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    loaded = load_tokenizer(tmp_path)
    assert loaded.pad_token == loaded.eos_token
    assert len(loaded) == len(tokenizer)


def test_a_tokenizer_that_is_missing_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.code == "model.no_tokenizer"


def _change(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weights = {"model.norm.weight": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "model.no_config"),
    "config that is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "model.broken_config"),
    "config that is a list": (lambda folder: (folder / "config.json").write_text("[]"), "model.broken_config"),
    "config with odd values": (lambda folder: _change(folder, hidden_size="wide"), "model.broken_config"),
    "code of its own": (
        lambda folder: _change(folder, model_type="own", auto_map={"AutoConfig": "own.Config"}),
        "model.unknown_architecture",
    ),
    "no model type": (lambda folder: _change(folder, model_type=None), "model.unknown_architecture"),
    "quantized": (
        lambda folder: _change(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "model.quantized",
    ),
    "classifier": (
        lambda folder: _change(folder, architectures=["LlamaForSequenceClassification"]),
        "model.not_causal",
    ),
    "pickled": (_pickled, "model.pickled_weights"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.no_weights"),
    "cut off": (_cut, "model.broken_weights"),
    "not safetensors": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64),
        "model.broken_weights",
    ),
    "empty weights": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.broken_weights"),
    "a shard missing": (_shards, "model.missing_weights"),
    "fewer layers in the file": (lambda folder: _change(folder, num_hidden_layers=3), "model.missing_weights"),
    "other sizes in the file": (lambda folder: _change(folder, intermediate_size=96), "model.cannot_load"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_folders_that_are_refused(name: str, copy: Path) -> None:
    spoil, code = SPOILED[name]
    spoil(copy)
    with pytest.raises(ModelError) as caught:
        load_model(LoadPlan(copy))
    assert caught.value.code == code
    assert str(copy) in str(caught.value.to_json())
    assert caught.value.hint


@pytest.mark.parametrize(
    "config",
    [
        transformers.Gemma3Config(architectures=["Gemma3ForConditionalGeneration"]),
        transformers.ViTConfig(architectures=["ViTModel"]),
    ],
    ids=lambda config: config.architectures[0],
)
def test_what_is_no_language_model_is_refused(config: transformers.PreTrainedConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    for call in (model_facts, lambda folder: load_model(LoadPlan(folder))):
        with pytest.raises(ModelError) as caught:
            call(tmp_path)
        assert caught.value.code == "model.not_language"


def test_an_encoder_without_a_head_is_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(LoadPlan(tiny_encoder_folder(tmp_path)))
    assert caught.value.code == "model.not_causal"
    assert "head" in (caught.value.hint or "")


def test_code_in_a_folder_is_never_run(copy: Path) -> None:
    _change(copy, model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})
    (copy / "own.py").write_text("raise SystemExit('this code was run')\n")
    with pytest.raises(ModelError):
        load_model(LoadPlan(copy))
