"""Architectures that a plan knows, and the linear layers that one of their transformer layers is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tunesmith.errors import ModelError

Reads = Literal["before_attention", "heads", "before_mlp", "inner"]


@dataclass(frozen=True)
class Matrix:
    """A linear layer: ``name`` is its path below the transformer layer that it is in, ``self_attn.q_proj``.

    ``reads`` is the tensor that it is called with; matrices that read the same one can share it.
    """

    name: str
    inputs: int
    outputs: int
    reads: Reads
    bias: bool = False

    @property
    def weights(self) -> int:
        """Numbers of the matrix, without a bias."""
        return self.inputs * self.outputs

    @property
    def is_attention(self) -> bool:
        """Whether it belongs to attention, as ``targets: attention`` of a recipe means it."""
        return self.reads in ("before_attention", "heads")


@dataclass(frozen=True)
class Family:
    """How models of one ``model_type`` differ from a plain llama.

    ``norms`` are those of a layer that are as wide as the hidden state. ``tied`` and ``head_dim`` are what a config
    means that does not say; ``windowed`` is the share of layers whose tokens see a window only.
    """

    fused: bool = False
    norms: int = 2
    query_key_norms: bool = False
    query_key_value_biases: bool = False
    tied: bool = False
    head_dim: int | None = None
    windowed: float = 0.0
    encoder: bool = False


FAMILIES: Mapping[str, Family] = {
    "llama": Family(),
    "mistral": Family(windowed=1.0),
    "smollm3": Family(tied=True),
    "qwen2": Family(query_key_value_biases=True),
    "qwen3": Family(query_key_norms=True, head_dim=128),
    "phi3": Family(fused=True, windowed=1.0),
    "gemma": Family(tied=True, head_dim=256),
    "gemma2": Family(norms=4, tied=True, head_dim=256, windowed=0.5),
    "gemma3_text": Family(norms=4, query_key_norms=True, tied=True, head_dim=256, windowed=5 / 6),
    "bert": Family(encoder=True),
    "roberta": Family(encoder=True),
    "xlm-roberta": Family(encoder=True),
}


@dataclass(frozen=True)
class Numbers:
    """What the matrices of a layer are made from, and whether those of attention and of the MLP have biases."""

    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_dim: int
    attention_bias: bool = False
    inner_bias: bool = False


def layer_matrices(numbers: Numbers, family: Family) -> tuple[Matrix, ...]:
    """The linear layers of one transformer layer, in the order in which they are called."""
    hidden, inner = numbers.hidden, numbers.intermediate
    queries, keys = numbers.heads * numbers.head_dim, numbers.key_value_heads * numbers.head_dim
    if family.encoder:
        return (
            *(
                Matrix(f"attention.self.{name}", hidden, hidden, "before_attention", bias=True)
                for name in ("query", "key", "value")
            ),
            Matrix("attention.output.dense", hidden, hidden, "heads", bias=True),
            Matrix("intermediate.dense", hidden, inner, "before_mlp", bias=True),
            Matrix("output.dense", inner, hidden, "inner", bias=True),
        )
    if family.fused:
        return (
            Matrix("self_attn.qkv_proj", hidden, queries + 2 * keys, "before_attention"),
            Matrix("self_attn.o_proj", queries, hidden, "heads"),
            Matrix("mlp.gate_up_proj", hidden, 2 * inner, "before_mlp"),
            Matrix("mlp.down_proj", inner, hidden, "inner"),
        )
    biased = family.query_key_value_biases or numbers.attention_bias
    return (
        Matrix("self_attn.q_proj", hidden, queries, "before_attention", biased),
        Matrix("self_attn.k_proj", hidden, keys, "before_attention", biased),
        Matrix("self_attn.v_proj", hidden, keys, "before_attention", biased),
        Matrix("self_attn.o_proj", queries, hidden, "heads", numbers.attention_bias),
        Matrix("mlp.gate_proj", hidden, inner, "before_mlp", numbers.inner_bias),
        Matrix("mlp.up_proj", hidden, inner, "before_mlp", numbers.inner_bias),
        Matrix("mlp.down_proj", inner, hidden, "inner", numbers.inner_bias),
    )


def family_of(architecture: str, name: str) -> Family:
    """The family of a ``model_type``; ``name`` is that of the model.

    Raises:
        ModelError: ``model.shape_unknown``.
    """
    if architecture in FAMILIES:
        return FAMILIES[architecture]
    raise ModelError(
        "no plan can be made for models of this architecture",
        code="model.shape_unknown",
        place=name,
        value=architecture,
        hint=f"architectures with a plan: {', '.join(FAMILIES)}; others train all the same",
    )
