"""How each family of models is laid out in a GGUF file: names, weights that are turned around, and numbers.

A family is here once llama.cpp gave the same scores as Transformers for a random model of it
(``tests/parity/test_gguf_families.py``); all others are refused, for a wrong layout loads and talks nonsense.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter, RopeScalingType
from numpy.typing import NDArray

Weight = NDArray[np.float32]
# llama.cpp alternates sliding and full attention of these two families in a fixed pattern.
_GEMMA2_PATTERN, _GEMMA3_PATTERN = 2, 6


@dataclass(frozen=True)
class Family:
    """One family.

    ``pairs_apart``: llama.cpp wants the two numbers that a rotation mixes side by side, Transformers keeps them half a
    head apart. ``norms_plus_one``: Transformers stores norms less one. ``numbers`` writes what only this family has,
    and ``refusal`` says why a config of the family cannot be expressed.
    """

    architecture: MODEL_ARCH
    pairs_apart: bool = False
    norms_plus_one: bool = False
    numbers: Callable[[Any, GGUFWriter], None] | None = None
    refusal: Callable[[Any], str | None] | None = None


def _gemma2_numbers(config: Any, writer: GGUFWriter) -> None:
    writer.add_attn_logit_softcapping(float(config.attn_logit_softcapping))
    writer.add_final_logit_softcapping(float(config.final_logit_softcapping))
    writer.add_sliding_window(int(config.sliding_window))


def _gemma3_numbers(config: Any, writer: GGUFWriter) -> None:
    writer.add_sliding_window(int(config.sliding_window))
    local = rope_of(config, "sliding_attention")
    writer.add_rope_freq_base_swa(float(local["rope_theta"]))


def _gemma2_refusal(config: Any) -> str | None:
    if config.attn_logit_softcapping is None or config.final_logit_softcapping is None:
        return "llama.cpp caps the scores of every Gemma 2 model, and this one is trained without caps"
    return _scale_refusal(config) or _pattern_refusal(config, _GEMMA2_PATTERN)


def _gemma3_refusal(config: Any) -> str | None:
    if getattr(config, "final_logit_softcapping", None) or getattr(config, "attn_logit_softcapping", None):
        return "llama.cpp knows no caps of scores in Gemma 3 models"
    return _scale_refusal(config) or _pattern_refusal(config, _GEMMA3_PATTERN)


def _scale_refusal(config: Any) -> str | None:
    """llama.cpp takes the usual scale of queries, but for the 27B models, whose number of layers it knows them by."""
    if config.query_pre_attn_scalar == config.head_dim:
        return None
    return f"queries are scaled by {config.query_pre_attn_scalar}, and llama.cpp scales by the head's {config.head_dim}"


def _pattern_refusal(config: Any, pattern: int) -> str | None:
    expected = [
        "full_attention" if (layer + 1) % pattern == 0 else "sliding_attention"
        for layer in range(config.num_hidden_layers)
    ]
    if list(config.layer_types) == expected:
        return None
    return f"llama.cpp sees the whole text in every {pattern}th layer of this family, and this model in others"


def _smollm3_refusal(config: Any) -> str | None:
    expected = [int((layer + 1) % 4 != 0) for layer in range(config.num_hidden_layers)]
    if list(config.no_rope_layers) == expected and not getattr(config, "use_sliding_window", False):
        return None
    return "llama.cpp leaves out positions in every fourth layer of this family, and this model in others"


FAMILIES: Mapping[str, Family] = {
    "llama": Family(MODEL_ARCH.LLAMA, pairs_apart=True),
    "mistral": Family(MODEL_ARCH.LLAMA, pairs_apart=True),
    "qwen2": Family(MODEL_ARCH.QWEN2),
    "qwen3": Family(MODEL_ARCH.QWEN3),
    "gemma": Family(MODEL_ARCH.GEMMA, norms_plus_one=True),
    "gemma2": Family(MODEL_ARCH.GEMMA2, norms_plus_one=True, numbers=_gemma2_numbers, refusal=_gemma2_refusal),
    "gemma3_text": Family(MODEL_ARCH.GEMMA3, norms_plus_one=True, numbers=_gemma3_numbers, refusal=_gemma3_refusal),
    "phi3": Family(MODEL_ARCH.PHI3, numbers=lambda config, writer: writer.add_sliding_window(_window_or_all(config))),
    "smollm3": Family(MODEL_ARCH.SMOLLM3, pairs_apart=True, refusal=_smollm3_refusal),
}
# Families whose sliding window llama.cpp does not know; within the window they see the whole text all the same.
_WINDOW_UNKNOWN = ("llama", "mistral", "qwen2", "qwen3")


def refusal(config: Any) -> str | None:
    """Why a model cannot be written as a GGUF file; None where it can."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        return f"the family {config.model_type} is not tested in llama.cpp here; tested are {', '.join(FAMILIES)}"
    kind = rope_of(config)["rope_type"]
    if kind not in ("default", "linear", "llama3"):
        return f"positions are stretched by the method {kind}, which is not tested in llama.cpp here"
    if getattr(config, "hidden_act", "silu") not in ("silu", "gelu_pytorch_tanh", "gelu"):
        return f"llama.cpp has its own activation for this family, and this model has {config.hidden_act}"
    return None if family.refusal is None else family.refusal(config)


def context_length(config: Any) -> int:
    """Tokens that the file may say: no more than the window where llama.cpp would see beyond it."""
    window = getattr(config, "sliding_window", None)
    slides = config.model_type in _WINDOW_UNKNOWN and bool(window) and getattr(config, "use_sliding_window", True)
    return int(min(config.max_position_embeddings, window)) if slides else int(config.max_position_embeddings)


def rope_of(config: Any, layers: str = "full_attention") -> Mapping[str, Any]:
    """How positions turn queries and keys; families with two kinds of layers have a setting for each."""
    found = config.rope_parameters
    return dict(found[layers]) if layers in found else dict(found)


def write_numbers(config: Any, writer: GGUFWriter) -> None:
    """The model's numbers: sizes, heads, positions, and what only its family has."""
    heads = int(config.num_attention_heads)
    head_size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    rope = rope_of(config)
    writer.add_context_length(context_length(config))
    writer.add_vocab_size(int(config.vocab_size))
    writer.add_embedding_length(int(config.hidden_size))
    writer.add_block_count(int(config.num_hidden_layers))
    writer.add_feed_forward_length(int(config.intermediate_size))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(getattr(config, "num_key_value_heads", None) or heads))
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))
    writer.add_rope_dimension_count(int(head_size * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    numbers = FAMILIES[config.model_type].numbers
    if numbers is not None:
        numbers(config, writer)


def laid_out(config: Any, name: str, weight: Weight) -> Weight:
    """A weight of Transformers' name in the layout that llama.cpp wants."""
    family = FAMILIES[config.model_type]
    if family.norms_plus_one and name.endswith("norm.weight"):
        return weight + np.float32(1)
    if family.pairs_apart and ".self_attn." in name:
        if ".q_proj." in name:
            return _pairs_together(weight, config.num_attention_heads)
        if ".k_proj." in name:
            return _pairs_together(weight, getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    return weight


def _pairs_together(weight: Weight, heads: int) -> Weight:
    rows = weight.shape[0]
    halves = weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def extra_weights(config: Any) -> Iterator[tuple[str, Weight]]:
    """Weights that llama.cpp reads and Transformers computes: how Llama 3 stretches each frequency."""
    rope = rope_of(config)
    if rope["rope_type"] != "llama3":
        return
    head_size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    original = float(rope["original_max_position_embeddings"])
    low, high, factor = (float(rope[name]) for name in ("low_freq_factor", "high_freq_factor", "factor"))
    factors = []
    for pair in range(head_size // 2):
        wavelength = 2 * math.pi * float(rope["rope_theta"]) ** (2 * pair / head_size)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    yield "rope_freqs.weight", np.asarray(factors, dtype=np.float32)


def _window_or_all(config: Any) -> int:
    # llama.cpp takes 0 for a window that is not there.
    return int(getattr(config, "sliding_window", None) or 0)
