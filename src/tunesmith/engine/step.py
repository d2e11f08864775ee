"""One optimizer step: lay out its rows, run the packs, divide once, clip, refuse what is not finite, update."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tunesmith.data.packs import lay_out
from tunesmith.data.steps import StepPlan
from tunesmith.data.types import Pack, TokenSet
from tunesmith.engine.optimizer import set_learning_rate
from tunesmith.engine.settings import TrainSettings
from tunesmith.errors import ResourceError, TrainingError
from tunesmith.objectives.base import LossSum, Objective
from tunesmith.strategies.base import Strategy


@dataclass(frozen=True)
class Parts:
    """What a step works with."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    trained: list[nn.Parameter]
    objective: Objective
    strategy: Strategy
    rows: TokenSet
    steps: StepPlan
    settings: TrainSettings


@dataclass(frozen=True)
class Outcome:
    """What a step did, over all ranks. ``applied`` is False where the update was refused and nothing changed.

    ``loss`` is in nats a trained token, ``metrics`` are means over the same tokens, ``gradient_norm`` is that before
    clipping. ``tokens`` are the tokens of the step's rows, however they were laid out.
    """

    loss: float
    metrics: dict[str, float]
    gradient_norm: float
    tokens: int
    trained_tokens: int
    applied: bool


def packs_of_step(parts: Parts, step: int) -> list[Pack]:
    """This rank's packs. Every rank lays out the whole step, so that all agree without talking."""
    packs = lay_out(
        [(row, parts.rows[row]) for row in parts.steps.rows_of(step).tolist()],
        tokens_per_micro_batch=parts.settings.tokens_per_micro_batch,
        layout=parts.settings.layout,
        share_prefix=parts.settings.share_prefix,
    )
    return packs[parts.strategy.rank :: parts.strategy.world_size]


def take_step(parts: Parts, step: int, learning_rate: float) -> Outcome:
    """Do step number ``step`` (from 0).

    Raises:
        TrainingError: The step has no trained tokens.
        ResourceError: The device has not enough memory for a pack.
    """
    strategy = parts.strategy
    packs = packs_of_step(parts, step)
    own = [
        float(sum(len(pack.labels_L) for pack in packs)),
        float(sum(int(parts.rows.lengths_B[row]) for pack in packs for row in pack.rows)),
    ]
    trained_tokens, tokens = (int(value) for value in strategy.sum_over_ranks(own))
    if trained_tokens == 0:
        raise TrainingError("no row of this step has a trained token", code="training.no_tokens", value=f"step {step}")
    seed_step(parts.settings.seed, step, strategy.rank)
    sums: dict[str, torch.Tensor] = {}
    for pack in packs:
        result = run_pack(parts, pack, trained_tokens)
        for name, value in {"loss": result.total.detach(), **result.metrics}.items():
            sums[name] = sums[name] + value if name in sums else value
    gradient_norm = strategy.clip(parts.trained, parts.settings.clip)
    # One transfer to the host for all of them.
    totals = strategy.sum_over_ranks(torch.stack([value.double() for value in sums.values()]).tolist())
    means = {name: total / trained_tokens for name, total in zip(sums, totals, strict=True)}
    loss = means.pop("loss")
    applied = math.isfinite(loss) and math.isfinite(gradient_norm)
    if applied:
        set_learning_rate(parts.optimizer, learning_rate)
        parts.optimizer.step()
    parts.optimizer.zero_grad(set_to_none=True)
    return Outcome(loss, means, gradient_norm, tokens, trained_tokens, applied)


def run_pack(parts: Parts, pack: Pack, trained_tokens: int) -> LossSum:
    """Forward and backward of one pack, in the precision of the settings; gradients add up in the weights.

    Raises:
        ResourceError: The device has not enough memory.
    """
    with _telling_memory_errors(pack):
        bfloat16 = parts.settings.precision == "bfloat16"
        with torch.autocast(parts.strategy.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            result = parts.objective.loss(parts.model, pack)
        parts.strategy.backward(result.total / trained_tokens)
    return result


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make torch's random numbers (dropout) a function of seed, step and rank, so that a resumed run draws the same."""
    numbers = np.random.SeedSequence([seed % 2**64, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(numbers[0] >> np.uint64(1)))


@contextmanager
def _telling_memory_errors(pack: Pack) -> Iterator[None]:
    """Turn a failed allocation of the block into a ResourceError; CPU and accelerators fail in different ways."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise ResourceError(
            "not enough memory for a micro-batch",
            code="resource.memory",
            place="train.tokens_per_micro_batch",
            value=f"{pack.tokens} tokens",
            hint="lower train.tokens_per_micro_batch, set train.activation_checkpointing, or train a smaller model",
        ) from error
