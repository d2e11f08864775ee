"""One optimizer step: lay out its rows, run the packs, divide once, clip, refuse what is not finite, update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import nn

from tunesmith.data.packs import lay_out
from tunesmith.data.steps import StepPlan
from tunesmith.data.types import Pack, TokenRow, TokenSet
from tunesmith.engine.optimizers import set_learning_rate
from tunesmith.engine.settings import TrainSettings
from tunesmith.errors import TrainingError
from tunesmith.models.memory import telling_memory_errors
from tunesmith.models.running import running
from tunesmith.objectives.base import LossSum, Objective
from tunesmith.strategies.base import Strategy
from tunesmith.strategies.held import Held
from tunesmith.techniques.base import Technique


@dataclass(frozen=True)
class Parts:
    """What a step works with."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    trained: list[nn.Parameter]
    technique: Technique
    objective: Objective
    strategy: Strategy
    rows: TokenSet
    steps: StepPlan
    settings: TrainSettings


@dataclass(frozen=True)
class Outcome:
    """What a step did, over all ranks. ``applied`` is False where the update was refused and nothing changed.

    ``loss`` is in nats a trained token, ``metrics`` are means over the same tokens, ``gradient_norm`` is that before
    clipping. ``tokens`` are the tokens of the step's rows, however they were laid out. ``held`` is the most that this
    rank held behind a pack or the update, where that was asked for and there was an update.
    """

    loss: float
    metrics: dict[str, float]
    gradient_norm: float
    tokens: int
    trained_tokens: int
    applied: bool
    held: Held | None = None


def rows_of_step(parts: Parts, step: int) -> list[tuple[int, TokenRow]]:
    """All rows of a step, each with its item."""
    return [(item, row) for item in parts.steps.rows_of(step).tolist() for row in parts.rows.item(item)]


@dataclass(frozen=True)
class RankShare:
    """A rank's packs, and packs of others that it runs without learning from them, to stay in step with ranks that have
    more: weights that are cut over the ranks are gathered together."""

    own: list[Pack]
    idle: list[Pack]

    @property
    def all(self) -> list[Pack]:
        """Both, in the order in which they run."""
        return [*self.own, *self.idle]


def packs_of(parts: Parts, rows: Sequence[tuple[int, TokenRow]]) -> RankShare:
    """This rank's packs of some rows. Every rank lays out the whole step, so that all agree without talking."""
    ranks = parts.strategy.group.world_size
    packs = lay_out(
        rows,
        tokens_per_micro_batch=parts.settings.tokens_per_micro_batch,
        layout=parts.settings.layout,
        share_prefix=parts.settings.share_prefix,
        ranks=ranks,
    )
    own = packs[parts.strategy.group.rank :: ranks]
    missing = math.ceil(len(packs) / ranks) - len(own)
    return RankShare(own, [min(packs, key=lambda pack: pack.tokens)] * missing if missing else [])


def step_sums(parts: Parts, share: RankShare, rows: Sequence[tuple[int, TokenRow]]) -> list[float]:
    """What the objective must know of the whole step, over all ranks; the first number divides the loss.

    Raises:
        ResourceError: The device has not enough memory.
    """
    companions = packs_of(parts, parts.objective.companions(rows))
    with _telling_memory_errors([*share.all, *companions.all]), torch.no_grad(), _precision(parts):
        own = parts.objective.step_sums(parts.model, share.own, companions.own)
        if companions.idle:
            parts.objective.step_sums(parts.model, [], companions.idle)
    return parts.strategy.group.sum_over_ranks(own)


def take_step(parts: Parts, step: int, total_steps: int, learning_rate: float, *, count_held: bool = False) -> Outcome:
    """Do step number ``step`` (from 0) of ``total_steps``; with ``count_held`` the outcome says what this rank held.

    Raises:
        TrainingError: The step has no trained tokens.
        ResourceError: The device has not enough memory for a pack.
    """
    strategy = parts.strategy
    rows = rows_of_step(parts, step)
    share = packs_of(parts, rows)
    trained_tokens = sum(int(row.trained_T.sum()) for _, row in rows)
    if trained_tokens == 0:
        raise TrainingError("no row of this step has a trained token", code="training.no_tokens", value=f"step {step}")
    seed_step(parts.settings.seed, step, strategy.group.rank)
    known = step_sums(parts, share, rows)
    sums: dict[str, torch.Tensor] = {}
    held: list[Held] = []

    def note_held() -> None:
        if count_held:
            held.append(strategy.held(parts.model, parts.optimizer))

    for at, pack in enumerate(share.all):
        weight = float(at < len(share.own))
        result = run_pack(parts, pack, known, weight, last=at == len(share.all) - 1)
        for name, value in {"loss": result.total.detach(), **result.metrics}.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value * weight
        note_held()
    strategy.reduce_gradients(parts.trained)
    parts.technique.regularize(parts.model)
    gradient_norm = strategy.clip(parts.trained, parts.settings.clip)
    # One transfer to the host for all of them.
    totals = strategy.group.sum_over_ranks(torch.stack([value.double() for value in sums.values()]).tolist())
    means = {name: total / known[0] for name, total in zip(sums, totals, strict=True)}
    loss = means.pop("loss")
    applied = math.isfinite(loss) and math.isfinite(gradient_norm)
    if applied:
        set_learning_rate(parts.optimizer, learning_rate)
        parts.optimizer.step()
        note_held()
        parts.technique.after_update(parts.model, step, total_steps)
    parts.optimizer.zero_grad(set_to_none=True)
    tokens = sum(len(row.token_ids_T) for _, row in rows)
    most_held = reduce(Held.most, held) if applied and held else None
    return Outcome(loss, means, gradient_norm, tokens, trained_tokens, applied, most_held)


def run_pack(parts: Parts, pack: Pack, known: Sequence[float], weight: float = 1.0, *, last: bool) -> LossSum:
    """Forward and backward of one pack, in the precision of the settings; gradients add up in the weights.

    With a ``weight`` of 0 nothing is learned from it; it is the ``last`` one of its step or not.

    Raises:
        ResourceError: The device has not enough memory.
    """
    # Layers that are computed a second time in the backward pass need to know the pack as well.
    with _telling_memory_errors([pack]), running(pack):
        with _precision(parts):
            result = parts.objective.loss(parts.model, pack, known)
        parts.strategy.backward(result.total / known[0] * weight, last=last)
    return result


def _precision(parts: Parts) -> torch.autocast:
    bfloat16 = parts.settings.precision == "bfloat16"
    return torch.autocast(parts.strategy.group.device.type, dtype=torch.bfloat16, enabled=bfloat16)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make torch's random numbers (dropout) a function of seed, step and rank, so that a resumed run draws the same."""
    numbers = np.random.SeedSequence([seed % 2**64, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(numbers[0] >> np.uint64(1)))


def _telling_memory_errors(packs: Sequence[Pack]) -> AbstractContextManager[None]:
    return telling_memory_errors(
        "not enough memory for a micro-batch",
        place="train.tokens_per_micro_batch",
        value=f"{max((pack.tokens for pack in packs), default=0)} tokens",
        hint="lower train.tokens_per_micro_batch, set train.activation_checkpointing, or train a smaller model",
    )
