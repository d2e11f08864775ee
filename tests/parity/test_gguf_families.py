"""GGUF files against Transformers: a random model of each family gives the same scores in llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from chat_templates import STYLES, make_tokenizer, styled_tokenizer
from tiny_models import tiny_causal_model, tiny_model_folder

from tunesmith.errors import ModelError
from tunesmith.export.compare_text import divergence
from tunesmith.export.gguf.families import FAMILIES, context_length
from tunesmith.export.gguf.runtime import open_llama
from tunesmith.export.gguf.write import write_gguf
from tunesmith.export.runtime import log_softmax

PATTERN_OF_SIX = {"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
# What llama.cpp has built in for a family, where the tiny model has something else.
OVERRIDES: dict[str, dict[str, Any]] = {"gemma3_text": PATTERN_OF_SIX}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, OVERRIDES.get(family, {})) for family in FAMILIES if family != "phi3"},
    "llama with an output matrix of its own": ("llama", {"tie_word_embeddings": False}),
    "llama with biases": ("llama", {"attention_bias": True}),
    "llama stretched by parts": ("llama", {"rope_parameters": LLAMA3}),
    "llama stretched evenly": ("llama", {"rope_parameters": LINEAR}),
    "qwen3 with large heads": ("qwen3", {"head_dim": 16}),
}


def token(tokenizer: Any) -> int:
    return int(tokenizer.get_vocab()["a"])


def divergences(folder: Path, model: Any, tokenizer: Any, ids: list[int], precision: str) -> np.ndarray:
    path = folder / f"{precision}.gguf"
    write_gguf(folder, tokenizer, path, precision, "tiny")
    with torch.inference_mode():
        known = log_softmax(model(torch.tensor([ids])).logits[0].numpy())
    with open_llama(path, model.config.vocab_size, 128, 1, token(tokenizer)) as runtime:
        return divergence(known[::3], runtime.likeliest(ids, range(0, len(ids), 3)))


FAST = ("llama", "qwen2", "gemma")


def some(names: Any, fast: tuple[str, ...]) -> list[Any]:
    """All of them, those that are not named only in the slow suite."""
    return [pytest.param(name, marks=[] if name in fast else [pytest.mark.slow]) for name in names]


@pytest.mark.parametrize("name", some(VARIANTS, FAST))
def test_scores_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    family, overrides = VARIANTS[name]
    tiny_model_folder(family, tmp_path, **overrides)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    # Past the sliding window where llama.cpp knows it, within the file's context where not.
    length = min(24, context_length(model.config) - 1)
    ids = (np.random.default_rng(0).integers(3, 399, length)).tolist()
    exact = divergences(tmp_path, model, tokenizer, ids, "f32")
    assert exact.max() < 1e-4, exact


@pytest.mark.parametrize(
    "precision", some(["f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"], ("f16", "q8_0", "q4_0"))
)
def test_fewer_bits_say_nearly_the_same(precision: str, tmp_path: Path) -> None:
    # Random weights are as sensitive as can be: a layout that is wrong gives several nats.
    most = {"f16": 1e-3, "bf16": 0.02, "q8_0": 0.03, "q5_1": 0.3, "q5_0": 0.3, "q4_1": 1.0, "q4_0": 1.0}[precision]
    tiny_model_folder("llama", tmp_path, hidden_size=64, head_dim=16)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = (np.random.default_rng(0).integers(3, 399, 24)).tolist()
    assert 1e-7 < divergences(tmp_path, model, tokenizer, ids, precision).mean() < most


def test_phi3_has_fused_weights_and_its_own_special_tokens(tmp_path: Path) -> None:
    style = STYLES["phi3"]
    tokenizer = make_tokenizer(type(style)(**{**vars(style), "tokens": (*style.tokens, "<s>", "</s>")}))
    tokenizer.save_pretrained(tmp_path)
    model = tiny_causal_model("phi3", tmp_path, vocab_size=len(tokenizer), sliding_window=None)
    assert divergences(tmp_path, model, tokenizer, [5, 300, 7, 310, 9, 320], "f32").max() < 1e-4


TEXTS = [
    "What is the capital of France?",
    "  two spaces,\ttabs\nand 12345 digits; don't, I'LL",
    "Grüße, 你好, \N{GRINNING FACE} and <|im_end|> or </s> inside",
    "",
]


@pytest.mark.parametrize("style", ["gemma", "mistral", "phi3"])
def test_pieces_with_bytes_make_the_same_tokens(style: str, tmp_path: Path) -> None:
    tokenizer = styled_tokenizer(style)
    tiny_causal_model("llama", tmp_path, vocab_size=len(tokenizer))
    write_gguf(tmp_path, tokenizer, tmp_path / "m.gguf", "f16", "tiny")
    with open_llama(tmp_path / "m.gguf", len(tokenizer), 64, 1, token(tokenizer)) as runtime:
        for text in TEXTS:
            assert runtime.encode(text) == tokenizer(text)["input_ids"], text


def test_bytes_make_the_same_tokens(tmp_path: Path) -> None:
    tiny_model_folder("llama", tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    write_gguf(tmp_path, tokenizer, tmp_path / "m.gguf", "f16", "tiny")
    with open_llama(tmp_path / "m.gguf", 400, 64, 1, token(tokenizer)) as runtime:
        for text in TEXTS:
            assert runtime.encode(text) == tokenizer(text)["input_ids"], text


def test_a_way_of_splitting_text_that_is_not_known_is_refused(tmp_path: Path) -> None:
    tokenizer = styled_tokenizer("chatml")
    tiny_causal_model("llama", tmp_path, vocab_size=len(tokenizer))
    with pytest.raises(ModelError, match="splits texts in a way that is not tested"):
        write_gguf(tmp_path, tokenizer, tmp_path / "m.gguf", "f16", "tiny")


@pytest.mark.parametrize(
    ("family", "overrides", "reason"),
    [
        ("gemma3_text", {}, "every 6th layer"),
        ("gemma2", {"query_pre_attn_scalar": 16}, "scaled by 16"),
        ("smollm3", {"no_rope_layers": [1, 0, 1, 1]}, "every fourth layer"),
        ("stablelm", {}, "stablelm is not tested"),
        ("llama", {"rope_parameters": {**LINEAR, "rope_type": "dynamic"}}, "by the method dynamic"),
    ],
)
def test_layouts_that_llama_does_not_have_are_refused(
    family: str, overrides: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    tiny_model_folder(family, tmp_path, **overrides)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(ModelError) as caught:
        write_gguf(tmp_path, tokenizer, tmp_path / "m.gguf", "f16", "tiny")
    assert caught.value.code == "export.gguf_family"
    assert reason in (caught.value.value or "")
    assert not (tmp_path / "m.gguf").exists()


def test_rows_that_do_not_divide_into_blocks_stay_whole_and_that_is_said(tmp_path: Path) -> None:
    tiny_model_folder("llama", tmp_path, intermediate_size=40)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    notes = write_gguf(tmp_path, tokenizer, tmp_path / "m.gguf", "q4_0", "tiny")
    assert notes == ["2 matrices have rows that do not divide into blocks of 32 numbers and stay f16"]
