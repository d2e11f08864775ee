"""How many parameters a technique trains, from the shape of the model alone.

    trained_parameters(shape, technique)        # a number, or None: that needs a look at the built model

Low-rank adapters have ``rank * (inputs + outputs)`` numbers a matrix (Hu et al. 2021), DoRA one more for each output
(Liu et al. 2024); the methods of the PEFT library are in :mod:`tunesmith.planner.method_counts`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tunesmith.planner.families import Matrix
from tunesmith.planner.method_counts import METHODS, takes_ia3
from tunesmith.planner.shape import ModelShape
from tunesmith.recipe.objectives import HEADS
from tunesmith.recipe.techniques import Dora, Freeze, Full, Lora, LowRank, PeftMethod, Qdora, Qlora, TechniqueSpec

# Settings of the library that choose layers or sizes one by one, which no formula here follows.
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


@dataclass(frozen=True)
class Counted:
    """What was counted of a technique in the built model: a number, or None and why there is none."""

    technique: TechniqueSpec
    trained: int | None
    why: str | None = None

    def of(self, technique: TechniqueSpec) -> int | None:
        """The number for a technique; None for any other than the one that was counted."""
        return self.trained if technique == self.technique else None


@dataclass(frozen=True)
class Adapted:
    """A matrix that a technique puts something on; ``rank`` is 0 where there is none."""

    matrix: Matrix
    rank: int


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
    rows = new_tokens * shape.hidden_size * (2 if shape.output_matrix else 1)
    if isinstance(technique, Full):
        return model_parameters(shape, objective=objective, labels=labels) + rows
    if isinstance(technique, Freeze):
        return _freeze(shape, technique, objective, labels)
    found = _low_rank(shape, technique) if isinstance(technique, LowRank) else _method(shape, technique)
    return None if found is None else found + head_parameters(shape, objective=objective, labels=labels) + rows


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


def adapted_matrices(shape: ModelShape, technique: TechniqueSpec) -> list[tuple[Adapted, ...]]:
    """For each layer of the model, the matrices that a technique puts something on; none for full and freeze."""
    if isinstance(technique, Full | Freeze):
        return [()] * shape.layers
    named = list(technique.targets) if isinstance(technique.targets, tuple) else []
    patterns = list(technique.rank_pattern) if isinstance(technique, LowRank) else []
    if any(part.isdigit() for name in (*named, *patterns) for part in name.split(".")):
        return [_adapted(shape, technique, layer) for layer in range(shape.layers)]
    return [_adapted(shape, technique, 0)] * shape.layers


def _adapted(shape: ModelShape, technique: LowRank | PeftMethod, layer: int) -> tuple[Adapted, ...]:
    chosen = [matrix for matrix in shape.matrices if _is_target(shape, technique, layer, matrix)]
    if isinstance(technique, LowRank):
        return tuple(Adapted(one, _rank(shape, technique, layer, one)) for one in chosen)
    settings = {**METHODS[technique.name].settings, **technique.settings} if technique.name in METHODS else {}
    rank = settings.get("init_r", settings.get("r", 0))
    return tuple(Adapted(one, int(rank or 0)) for one in chosen)


def _is_target(shape: ModelShape, technique: LowRank | PeftMethod, layer: int, matrix: Matrix) -> bool:
    targets: Any = technique.targets
    if targets == "auto":
        kind = METHODS[technique.name].targets if technique.name in METHODS else "linear"
        return kind == "linear" or (kind == "keys_values_down" and takes_ia3(matrix))
    if isinstance(targets, tuple):
        return _is_named(shape, layer, matrix, targets)
    return targets == "all-linear" or matrix.is_attention


def _rank(shape: ModelShape, technique: LowRank, layer: int, matrix: Matrix) -> int:
    """Of the patterns that name a matrix the longest counts."""
    fitting = [name for name in technique.rank_pattern if _is_named(shape, layer, matrix, [name])]
    return technique.rank_pattern[max(fitting, key=len)] if fitting else technique.rank


def _is_named(shape: ModelShape, layer: int, matrix: Matrix, names: Iterable[str]) -> bool:
    """Whether one of some names means this matrix: its full name ends with it, at a dot."""
    stack = f"{shape.architecture.replace('-', '_')}.encoder.layer" if shape.kind == "encoder" else "model.layers"
    full = f"{stack}.{layer}.{matrix.name}"
    return any(full == name or full.endswith("." + name) for name in names)


def _low_rank(shape: ModelShape, technique: Lora | Dora | Qlora | Qdora) -> int:
    lengths = int(isinstance(technique, Dora | Qdora))
    return sum(
        one.rank * (one.matrix.inputs + one.matrix.outputs) + lengths * one.matrix.outputs
        for layer in adapted_matrices(shape, technique)
        for one in layer
    )


def _method(shape: ModelShape, technique: PeftMethod) -> int | None:
    counted = METHODS.get(technique.name)
    if counted is None or any(name in _ONE_BY_ONE or name.endswith("_pattern") for name in technique.settings):
        return None
    if counted.targets == "norms" and technique.targets != "auto":
        return None
    settings = {**counted.settings, **technique.settings}
    chosen = [one.matrix for layer in adapted_matrices(shape, technique) for one in layer]
    numbers = [*(counted.per_matrix(one, settings) for one in chosen), counted.per_model(shape, len(chosen), settings)]
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _freeze(shape: ModelShape, technique: Freeze, objective: str, labels: int) -> int:
    """The last layers; with ``head`` what stands behind them, and in any case a classifier's own head."""
    total = min(technique.layers, shape.layers) * shape.layer_parameters
    total += head_parameters(shape, objective=objective, labels=labels)
    if not technique.head:
        return total
    if shape.kind == "encoder":
        return total + (shape.pooler if objective == "sequence_classification" else 0)
    return total + shape.outer_norms + (0 if objective in HEADS else shape.output_matrix)
