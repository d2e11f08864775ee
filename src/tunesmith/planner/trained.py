"""How many parameters a technique trains, from the shape of the model alone.

    trained_parameters(shape, technique)        # a number, or None: that needs a look at the built model

Low-rank adapters have ``rank * (inputs + outputs)`` numbers a matrix (Hu et al. 2021), DoRA one more for each output
(Liu et al. 2024); the methods of the PEFT library are in :mod:`tunesmith.planner.method_counts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tunesmith.planner.method_counts import METHODS, Counted, takes_ia3
from tunesmith.planner.shape import Matrix, ModelShape
from tunesmith.recipe.objectives import HEADS
from tunesmith.recipe.techniques import Freeze, Full, LowRank, PeftMethod, TechniqueSpec

# Settings of the library that choose layers or ranks one by one, which no formula here follows.
_ONE_BY_ONE = frozenset(
    {
        "bias",
        "exclude_modules",
        "layer_replication",
        "layers_pattern",
        "layers_to_transform",
        "num_layers",
        "num_transformer_submodules",
        "proportional_parameters",
        "target_parameters",
        "token_dim",
    }
)


def trained_parameters(
    shape: ModelShape,
    technique: TechniqueSpec,
    *,
    objective: str = "sft",
    labels: int = 0,
    new_tokens: int = 0,
) -> int | None:
    """Numbers that train.

    Args:
        shape: The model.
        technique: As the recipe spells it.
        objective: Name of the objective; one with a head trains that head in any case.
        labels: What the head chooses from.
        new_tokens: Tokens whose rows of the embeddings train.

    Returns:
        None where only the built model can tell.
    """
    if isinstance(technique, Full):
        return model_parameters(shape, objective=objective, labels=labels) + new_tokens * _rows(shape)
    if isinstance(technique, Freeze):
        return _freeze(shape, technique, objective, labels)
    beside = head_parameters(shape, objective=objective, labels=labels) + new_tokens * _rows(shape)
    if isinstance(technique, LowRank):
        return _low_rank(shape, technique) + beside
    found = _method(shape, technique)
    return None if found is None else found + beside


def head_parameters(shape: ModelShape, *, objective: str, labels: int) -> int:
    """Numbers of a classifier's head; 0 where the model writes."""
    if objective not in HEADS:
        return 0
    outputs = 2 if objective == "question_answering" else max(2, labels)
    # Decoders have no bias where one label is given to a whole text.
    has_bias = shape.kind == "encoder" or objective != "sequence_classification"
    return shape.hidden_size * outputs + (outputs if has_bias else 0)


def model_parameters(shape: ModelShape, *, objective: str, labels: int) -> int:
    """All numbers of the model that an objective trains: with a head in place of the output matrix, or as it is."""
    if objective not in HEADS:
        return shape.parameters
    pooler = 0 if objective == "sequence_classification" else shape.pooler
    head = head_parameters(shape, objective=objective, labels=labels)
    return shape.parameters - shape.output_matrix - pooler + head


def targeted(shape: ModelShape, technique: TechniqueSpec) -> list[list[Matrix]]:
    """For each layer, the matrices that a technique puts something on; for full and freeze none."""
    if isinstance(technique, Full | Freeze):
        return [[] for _ in range(shape.layers)]
    targets: Any = technique.targets
    if isinstance(technique, PeftMethod) and targets == "auto":
        kind = METHODS[technique.name].targets if technique.name in METHODS else "linear"
        wanted = {"linear": shape.matrices, "keys_values_down": tuple(filter(takes_ia3, shape.matrices))}.get(kind, ())
        return [list(wanted)] * shape.layers
    if targets == "all-linear":
        return [list(shape.matrices)] * shape.layers
    if targets == "attention":
        return [[matrix for matrix in shape.matrices if matrix.is_attention]] * shape.layers
    return [
        [matrix for matrix in shape.matrices if _names(shape, layer, matrix, targets)]
        for layer in _layers(shape, targets)
    ]


def rank_of(shape: ModelShape, technique: LowRank, layer: int, matrix: Matrix) -> int:
    """The rank of one matrix's adapter: of the patterns that name it the longest counts."""
    fitting = [name for name in technique.rank_pattern if _names(shape, layer, matrix, [name])]
    return technique.rank_pattern[max(fitting, key=len)] if fitting else technique.rank


def _low_rank(shape: ModelShape, technique: LowRank) -> int:
    has_lengths = technique.name in ("dora", "qdora")
    total = 0
    for layer, matrices in enumerate(targeted(shape, technique)):
        for matrix in matrices:
            total += rank_of(shape, technique, layer, matrix) * (matrix.inputs + matrix.outputs)
            total += matrix.outputs if has_lengths else 0
    return total


def _method(shape: ModelShape, technique: PeftMethod) -> int | None:
    counted = METHODS.get(technique.name)
    if counted is None or any(name in _ONE_BY_ONE or name.endswith("_pattern") for name in technique.settings):
        return None
    if counted.targets == "norms" and technique.targets != "auto":
        return None
    settings: Mapping[str, Any] = {**counted.settings, **technique.settings}
    chosen = [matrix for matrices in targeted(shape, technique) for matrix in matrices]
    return _sum(
        [*(counted.per_matrix(one, settings) for one in chosen), _of_model(shape, counted, len(chosen), settings)]
    )


def _of_model(shape: ModelShape, counted: Counted, matrices: int, settings: Mapping[str, Any]) -> int | None:
    return counted.per_model(shape, matrices, settings)


def _sum(numbers: Iterable[int | None]) -> int | None:
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


def _freeze(shape: ModelShape, technique: Freeze, objective: str, labels: int) -> int:
    """The last layers; with ``head`` what stands behind them, and in any case a classifier's own head."""
    total = min(technique.layers, shape.layers) * shape.layer_parameters
    total += head_parameters(shape, objective=objective, labels=labels)
    if not technique.head:
        return total
    if shape.kind == "encoder":
        return total + (shape.pooler if objective == "sequence_classification" else 0)
    return total + shape.outer_norms + (0 if objective in HEADS else shape.output_matrix)


def _rows(shape: ModelShape) -> int:
    """Numbers that train for one new token: its row of the embeddings, and of an output matrix of its own."""
    return shape.hidden_size * (2 if shape.output_matrix else 1)


def _layers(shape: ModelShape, names: Iterable[str]) -> list[int]:
    return list(range(shape.layers))


def _names(shape: ModelShape, layer: int, matrix: Matrix, names: Iterable[str]) -> bool:
    """Whether one of some names means this matrix: its full name ends with it, at a dot."""
    stack = "encoder.layer" if shape.kind == "encoder" else "model.layers"
    full = (
        f"{shape.architecture.replace('-', '_') + '.' if shape.kind == 'encoder' else ''}{stack}.{layer}.{matrix.name}"
    )
    return any(full == name or full.endswith("." + name) for name in names)
