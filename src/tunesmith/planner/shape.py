"""What a plan has to know of a model: its numbers and its matrices, from the catalog or from a config.json alone.

    shape = shape_of_entry(entry)                   # a model of the catalog
    shape = shape_of_config(config, "my-model")     # the content of a config.json as Hugging Face writes it

Nothing is built and nothing is fetched. Parameters of a config are counted by the same arithmetic that agrees with the
catalog's own numbers for every entry, and with the built model for every family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.catalog.entries import CatalogEntry
from tunesmith.errors import ModelError, Problem
from tunesmith.planner.families import FAMILIES, Family, Matrix, Numbers, family_of, layer_matrices
from tunesmith.recipe.facts import ModelFacts, ModelKind


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a model. ``parameters`` counts tied embeddings once; ``matrices`` are those of one layer.

    ``context_length`` and ``sliding_window`` are tokens, None for no limit.
    """

    name: str
    architecture: str
    kind: ModelKind
    parameters: int
    layers: int
    hidden_size: int
    intermediate_size: int
    attention_heads: int
    key_value_heads: int
    head_dim: int
    vocabulary_size: int
    context_length: int | None
    sliding_window: int | None
    tied_embeddings: bool
    matrices: tuple[Matrix, ...]

    @property
    def family(self) -> Family:
        """What is special about its architecture."""
        return FAMILIES[self.architecture]

    @property
    def query_size(self) -> int:
        """Numbers of a token's queries of all heads."""
        return self.attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Numbers of a token's keys; its values are as many."""
        return self.key_value_heads * self.head_dim

    @property
    def layer_matrices(self) -> int:
        """Numbers of one layer's matrices, without biases."""
        return sum(matrix.weights for matrix in self.matrices)

    @property
    def layer_norms(self) -> int:
        """Numbers of one layer's norms."""
        wide = self.family.norms * self.hidden_size * (2 if self.family.encoder else 1)
        return wide + (2 * self.head_dim if self.family.query_key_norms else 0)

    @property
    def outer_norms(self) -> int:
        """Numbers of the norms outside of the layers."""
        return self.hidden_size * (2 if self.family.encoder else 1)

    @property
    def layer_parameters(self) -> int:
        """All numbers of one layer."""
        return self.layer_matrices + sum(one.outputs for one in self.matrices if one.bias) + self.layer_norms

    @property
    def output_matrix(self) -> int:
        """Numbers of an output matrix of its own; 0 where the embeddings serve as one, or nothing is written."""
        return 0 if self.tied_embeddings or self.kind != "causal" else self.vocabulary_size * self.hidden_size

    @property
    def pooler(self) -> int:
        """Numbers of an encoder's pooler."""
        return self.hidden_size**2 + self.hidden_size if self.kind == "encoder" else 0

    def facts(self, *, has_chat_template: bool) -> ModelFacts:
        """What resolving a recipe wants to know of the model."""
        return ModelFacts(
            name=self.name,
            parameters=self.parameters,
            context_length=self.context_length,
            has_chat_template=has_chat_template,
            model_type=self.architecture,
            kind=self.kind,
            hidden_size=self.hidden_size,
            layers=self.layers,
            vocabulary_size=self.vocabulary_size,
        )


def shape_of_entry(entry: CatalogEntry) -> ModelShape:
    """The shape of a model of the catalog.

    Raises:
        ModelError: ``model.shape_unknown``: no plan is known for its architecture.
    """
    family = family_of(entry.architecture, entry.id)
    numbers = Numbers(
        hidden=entry.hidden_size,
        intermediate=entry.intermediate_size,
        heads=entry.attention_heads,
        key_value_heads=entry.key_value_heads,
        head_dim=entry.head_dim,
    )
    return ModelShape(
        name=entry.id,
        architecture=entry.architecture,
        kind=entry.kind,
        parameters=entry.parameters,
        layers=entry.layers,
        hidden_size=entry.hidden_size,
        intermediate_size=entry.intermediate_size,
        attention_heads=entry.attention_heads,
        key_value_heads=entry.key_value_heads,
        head_dim=entry.head_dim,
        vocabulary_size=entry.vocabulary_size,
        context_length=entry.context_length,
        sliding_window=entry.sliding_window,
        tied_embeddings=entry.tied_embeddings,
        matrices=layer_matrices(numbers, family),
    )


def config_of(shape: ModelShape) -> dict[str, Any]:
    """What a config.json would say of a model's size, for models of which the numbers alone are known."""
    numbers = {
        "model_type": shape.architecture,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.attention_heads,
        "vocab_size": shape.vocabulary_size,
        "max_position_embeddings": shape.context_length,
        "tie_word_embeddings": shape.tied_embeddings,
        # Any token of the vocabulary will do.
        "pad_token_id": 0,
    }
    if shape.kind == "encoder":
        return numbers
    return {**numbers, "num_key_value_heads": shape.key_value_heads, "head_dim": shape.head_dim}


# What a config must say, and what is taken where it does not.
_REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_OPTIONAL = ("num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window", "type_vocab_size")


def shape_of_config(config: Mapping[str, Any], name: str) -> ModelShape:
    """The shape of the model that a config.json describes.

    Args:
        config: The content of the file.
        name: What the user calls the model.

    Raises:
        ModelError: ``model.shape_unknown``: no plan is known for its ``model_type``; ``model.shape_number``: numbers
            are missing or are none, all of them at once.
    """
    architecture = str(config.get("model_type"))
    family = family_of(architecture, name)
    _require_numbers(config, family, name)
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    numbers = Numbers(
        hidden=hidden,
        intermediate=int(config["intermediate_size"]),
        heads=heads,
        key_value_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or family.head_dim or hidden // heads),
        attention_bias=bool(config.get("attention_bias")),
        inner_bias=bool(config.get("mlp_bias")),
    )
    window = config.get("sliding_window") if config.get("use_sliding_window", True) and family.windowed else None
    tied = config.get("tie_word_embeddings")
    shape = ModelShape(
        name=name,
        architecture=architecture,
        kind="encoder" if family.encoder else "causal",
        parameters=0,
        layers=int(config["num_hidden_layers"]),
        hidden_size=hidden,
        intermediate_size=numbers.intermediate,
        attention_heads=heads,
        key_value_heads=numbers.key_value_heads,
        head_dim=numbers.head_dim,
        vocabulary_size=int(config["vocab_size"]),
        context_length=int(config["max_position_embeddings"]) if config.get("max_position_embeddings") else None,
        sliding_window=int(window) if window else None,
        tied_embeddings=True if family.encoder else family.tied if tied is None else bool(tied),
        matrices=layer_matrices(numbers, family),
    )
    outside = _outside(shape, int(config.get("type_vocab_size") or 2))
    return replace(shape, parameters=outside + shape.layers * shape.layer_parameters)


def _outside(shape: ModelShape, token_kinds: int) -> int:
    """Parameters outside of the layers: embeddings, output matrix, norms, and an encoder's pooler."""
    rows = shape.vocabulary_size
    if shape.kind == "encoder":
        rows += (shape.context_length or 0) + token_kinds
    return rows * shape.hidden_size + shape.output_matrix + shape.outer_norms + shape.pooler


def _require_numbers(config: Mapping[str, Any], family: Family, name: str) -> None:
    """Refuse a config with all that is wrong with its numbers."""
    required = (*_REQUIRED, "max_position_embeddings") if family.encoder else _REQUIRED
    problems = []
    for key in (*required, *(one for one in _OPTIONAL if one not in required)):
        value = config.get(key)
        if value is None and key in required:
            problems.append(Problem("model.shape_number", "the number is missing", f"{name}: {key}"))
        elif value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            problems.append(Problem("model.shape_number", "is no whole number above 0", f"{name}: {key}", str(value)))
    if problems:
        raise ModelError(
            "config.json does not say how large the model is",
            place=name,
            hint="fetch or copy the model's config.json again",
            problems=problems,
        )
