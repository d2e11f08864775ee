"""Bytes of weights, adapters, gradients and optimizer, whole, before any strategy cuts them.

Frozen weights under an adapter are loaded in the type of the products, all others in float32; what trains is float32
whatever the rest is. NF4 takes half a byte a number and a scale for each 64 of them, in float32 or, quantized again,
in a byte and a second scale for each 256 (Dettmers et al. 2023); int8 takes a byte and a scale a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.planner.shape import ModelShape
from tunesmith.planner.trained import Counted, model_parameters, trained_parameters
from tunesmith.recipe.facts import DataFacts
from tunesmith.recipe.resolved import Resolved
from tunesmith.recipe.techniques import MOVING, OWN_WEIGHTS, Quantized

NF4_BLOCK, NF4_SECOND_BLOCK = 64, 256
# Tables of a matrix in four bits: sixteen levels, and 256 of its scales.
NF4_TABLES = (16 + 256) * 4
# Bytes of state for each trained number. AdamW keeps two moments in float32, and so does the schedule-free form (a
# moment and the averaged weights); in eight bits each takes a byte and a scale for 256 (Dettmers et al. 2022).
OPTIMIZER_BYTES = {
    "adamw": 8.0,
    "schedule_free_adamw": 8.0,
    "adamw_8bit": 2 * (1 + 4 / 256),
    "paged_adamw_8bit": 2 * (1 + 4 / 256),
    "lion_8bit": 1 + 4 / 256,
}
# Adafactor keeps a row and a column of every matrix (Shazeer and Stern 2018); a thin adapter's column is most of it.
ADAFACTOR_OF_WEIGHTS, ADAFACTOR_OF_ADAPTERS = 0.02, 0.3
# What AdaLoRA remembers of each number's importance: its sensitivity, two averages.
ADALORA_BYTES = 12
# Where no formula knows what trains: as much as LoRA of rank 16 on all matrices.
_GUESSED_RANK = 16


@dataclass(frozen=True)
class Sizes:
    """Whole sizes in bytes, and how many numbers they stand for.

    ``quantization`` are scales and the one matrix that is plain at a time. ``number`` is the bytes of a frozen number.
    """

    parameters: int
    trained: int
    trained_is_known: bool
    number: int
    weights: int
    quantization: int
    adapters: int
    gradients: int
    optimizer: int


def whole_sizes(
    shape: ModelShape, resolved: Resolved, data: DataFacts, *, counted: Counted | None = None, new_tokens: int = 0
) -> Sizes:
    """The sizes of a training.

    Args:
        shape: The model.
        resolved: The recipe, resolved.
        data: The data.
        counted: What was counted in the built model, for techniques without a formula.
        new_tokens: Tokens that the model did not have.
    """
    name, objective = resolved.technique.name, resolved.objective.name
    labels = classes(resolved, data)
    parameters = model_parameters(shape, objective=objective, labels=labels) + new_tokens * shape.hidden_size
    trained = trained_parameters(shape, resolved.technique, objective=objective, labels=labels, new_tokens=new_tokens)
    if trained is None and counted is not None:
        trained = counted.of(resolved.technique)
    known = trained is not None
    numbers = _guess(shape) if trained is None else trained
    number = 2 if name not in OWN_WEIGHTS and resolved.precision == "bfloat16" else 4
    packed, scales = _quantized(shape, resolved, number)
    rest = parameters - (shape.layers * shape.layer_matrices if packed else 0)
    beginnings = 2 if getattr(resolved.technique, "initialization", "default") in MOVING else 1
    return Sizes(
        parameters=parameters,
        trained=numbers,
        trained_is_known=known,
        number=number,
        weights=rest * number + packed,
        quantization=scales,
        adapters=0 if name in OWN_WEIGHTS else 4 * numbers * beginnings,
        gradients=4 * numbers,
        optimizer=_optimizer(resolved, numbers),
    )


def classes(resolved: Resolved, data: DataFacts) -> int:
    """What a head chooses from: labels, or for words a beginning and an inside of each, and nothing."""
    return 2 * data.labels + 1 if resolved.objective.name == "token_classification" else data.labels


def _guess(shape: ModelShape) -> int:
    return shape.layers * sum(_GUESSED_RANK * (one.inputs + one.outputs) for one in shape.matrices)


def _optimizer(resolved: Resolved, trained: int) -> int:
    if resolved.optimizer in OPTIMIZER_BYTES:
        size = OPTIMIZER_BYTES[resolved.optimizer]
    else:
        size = 4 * (ADAFACTOR_OF_WEIGHTS if resolved.technique.name in OWN_WEIGHTS else ADAFACTOR_OF_ADAPTERS)
    return int(trained * (size + (ADALORA_BYTES if resolved.technique.name == "adalora" else 0)))


def _quantized(shape: ModelShape, resolved: Resolved, number: int) -> tuple[int, int]:
    """Bytes of the packed matrices, and of scales, tables and the matrix that is plain at a time; 0 for whole ones."""
    technique = resolved.technique
    if not isinstance(technique, Quantized):
        return 0, 0
    numbers = shape.layers * shape.layer_matrices
    plain = max(one.weights for one in shape.matrices) * number
    if technique.quantization == "int8":
        return numbers, 4 * shape.layers * sum(one.outputs for one in shape.matrices) + plain
    if not technique.double_quantization:
        return numbers // 2, 4 * numbers // NF4_BLOCK + plain
    scales = numbers // NF4_BLOCK + 4 * numbers // (NF4_BLOCK * NF4_SECOND_BLOCK)
    return numbers // 2, scales + NF4_TABLES * shape.layers * len(shape.matrices) + plain
