"""What the training loop is told, and what it tells back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunesmith.strategies.held import Held


@dataclass(frozen=True)
class TrainSettings:
    """All numbers of one training, resolved: nothing here is ``auto``.

    ``total_steps`` are optimizer steps; with ``deadline_seconds`` (time for the whole training, over all attempts) it
    is the most that may be done. ``warmup`` is the share of steps with a rising rate. ``clip`` is the greatest
    gradient norm, None for no limit. ``tokens_per_micro_batch`` bounds the tokens of one forward. A checkpoint is
    saved and the validation loss taken every so many steps; None is never (the end has a checkpoint in any case).
    With ``patience`` training ends after so many validations in a row that were no better, and the weights of the best
    one are the result. ``neftune_alpha`` is the size of noise on embeddings. ``precision`` is the type of the matrix
    products where it is not that of the weights: ``bfloat16`` runs forward under autocast.
    """

    total_steps: int
    seed: int = 0
    optimizer: str = "adamw"
    learning_rate: float = 2e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float | None = 1.0
    tokens_per_micro_batch: int = 1024
    layout: Literal["packed", "padded"] = "packed"
    share_prefix: bool = True
    activation_checkpointing: bool | int = False
    checkpoint_every_steps: int | None = None
    validate_every_steps: int | None = None
    patience: int | None = None
    neftune_alpha: float | None = None
    on_non_finite: Literal["stop", "skip"] = "stop"
    deadline_seconds: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class ValidationLoss:
    """Mean loss in nats a trained token over ``rows`` held-out rows with ``tokens`` trained tokens.

    ``accuracy`` is the share of these tokens that got the highest score, None where nobody counted.
    """

    loss: float
    rows: int
    tokens: int
    accuracy: float | None = None


@dataclass(frozen=True)
class TrainResult:
    """How a training ended. Counts and ``seconds`` are those of all attempts together.

    ``tokens`` are the tokens of the rows trained on, ``trained_tokens`` those of them with a loss.
    ``stopped`` is None when all of ``total_steps`` are done, or patience was over. ``best_step`` is the step whose
    weights are the result, where a validation decided that. ``rank_memory_bytes`` is the peak of each rank, and
    ``rank_held`` what each holds of weights, gradients and moments; empty where this attempt took no step.
    """

    steps: int
    total_steps: int
    tokens: int
    trained_tokens: int
    seconds: float
    peak_memory_bytes: int
    epochs: float
    stopped: Literal["pause", "cancel"] | None
    best_step: int | None = None
    rank_memory_bytes: tuple[int, ...] = ()
    rank_held: tuple[Held, ...] = ()
