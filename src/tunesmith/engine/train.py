"""The training loop: flat, and the same for every technique, objective and strategy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from tunesmith.data.steps import StepPlan
from tunesmith.data.types import TokenSet
from tunesmith.engine.checkpoint import Checkpoints, CheckpointState
from tunesmith.engine.deadline import Deadline
from tunesmith.engine.mode import training_mode
from tunesmith.engine.monitor import Speed, peak_memory_bytes
from tunesmith.engine.optimizers import make_optimizer, result_in_place, start_training, use_result
from tunesmith.engine.patience import Best, judge
from tunesmith.engine.resume import find_checkpoint, library_versions, training_identity
from tunesmith.engine.schedule import Clock, rate_share
from tunesmith.engine.settings import TrainResult, TrainSettings, ValidationLoss
from tunesmith.engine.step import Outcome, Parts, packs_of, rows_of_step, run_pack, step_sums, take_step
from tunesmith.errors import TrainingError
from tunesmith.models.noise import noisy_embeddings
from tunesmith.objectives.base import Objective
from tunesmith.runs.control import Wish
from tunesmith.runs.events import EventWriter
from tunesmith.strategies.base import Strategy
from tunesmith.strategies.group import Group
from tunesmith.strategies.held import Held, held_by_each
from tunesmith.strategies.tensors import go_through
from tunesmith.techniques.base import Technique

MOST_REFUSED_IN_A_ROW = 10
_GUESSED_BYTES_PER_SECOND = 200e6
# A trial of a step that takes more of the time for training is not repeated.
_MOST_OF_TRIAL = 0.02


@dataclass
class _Progress:
    """What changes while training goes on. ``step`` steps are done; ``saved_step`` has a checkpoint.

    ``held`` is what this rank held in the first step of this attempt that changed weights.
    """

    clock: Clock
    step: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    earlier_seconds: float = 0.0
    saved_step: int | None = None
    refused_in_a_row: int = 0
    best: Best | None = None
    held: Held | None = None


@dataclass(frozen=True)
class _Training:
    """All that stays the same while training goes on."""

    parts: Parts
    checkpoints: Checkpoints
    events: EventWriter
    identity: dict[str, Any]
    now: Callable[[], float]
    started: float
    trained_bytes: int


def train(
    model: nn.Module,
    *,
    technique: Technique,
    objective: Objective,
    strategy: Strategy,
    rows: TokenSet,
    steps: StepPlan,
    settings: TrainSettings,
    checkpoints: Checkpoints,
    events: EventWriter,
    read_wish: Callable[[], Wish],
    validate: Callable[[], ValidationLoss] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> TrainResult:
    """Train, from the newest checkpoint where there is one.

    The same arguments give the same weights, bit for bit on one process, whether or not training was interrupted;
    only a deadline makes the number of steps depend on time.

    Args:
        model: As ``technique.prepare`` gave it, on the strategy's device. Trained in place, left in eval mode.
        technique: Which weights train.
        objective: What is minimised.
        strategy: How ranks share the work.
        rows: The token rows.
        steps: Which rows each step learns from.
        settings: All numbers.
        checkpoints: Where training goes on from, and saves to.
        events: Gets ``step``, ``evaluation``, ``checkpoint`` and ``warning`` events; a step event's ``step`` is the
            number of steps done, its counts and ``seconds`` are those of that step alone.
        read_wish: Asked before each step: ``pause`` saves and stops, ``cancel`` stops.
        validate: Gives the loss on held-out rows.
        now: A clock in seconds.

    Returns:
        Counts, time and memory of the whole training.

    Raises:
        TrainingError: Loss or gradient norm is not finite and the settings say stop, or too often in a row.
        CheckpointError: No checkpoint is whole, or the newest belongs to other settings, data or weights.
        OutputError: A checkpoint or event cannot be written; earlier checkpoints are whole.
        ResourceError: Not enough memory.
        ModelError: The model cannot do activation checkpointing.
    """
    model = strategy.share_out(model)
    groups = technique.parameter_groups(model, settings.weight_decay)
    optimizer = make_optimizer(settings.optimizer, groups, settings.learning_rate)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    identity = training_identity(settings, rows, steps, technique.trainable_state(model))
    trained_bytes = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    optimizer = strategy.join(model, optimizer)
    parts = Parts(model, optimizer, trained, technique, objective, strategy, rows, steps, settings)

    def agreed_now() -> float:
        return float(strategy.group.agree(now()))

    training = _Training(parts, checkpoints, events, identity, agreed_now, agreed_now(), trained_bytes)
    progress = _start(training)
    start_training(optimizer)
    with training_mode(model, settings.activation_checkpointing), noisy_embeddings(model, settings.neftune_alpha):
        stopped = _take_steps(training, progress, lambda: strategy.group.agree(read_wish()), validate)
    if stopped != "cancel":
        _save(training, progress, None)
    if stopped is None:
        _take_best(training, progress)
    use_result(optimizer)
    own_memory, memory = _peak_memory(strategy.group)
    return TrainResult(
        steps=progress.step,
        total_steps=progress.clock.total_steps,
        tokens=progress.tokens,
        trained_tokens=progress.trained_tokens,
        seconds=_elapsed(training, progress),
        peak_memory_bytes=own_memory,
        rank_memory_bytes=memory,
        rank_held=() if progress.held is None else held_by_each(strategy.group, progress.held),
        epochs=steps.epoch_of(progress.step),
        stopped=stopped,
        best_step=None if progress.best is None else progress.best.step,
    )


def _peak_memory(group: Group) -> tuple[int, tuple[int, ...]]:
    """Bytes that this process held at most, and those of every rank. Together."""
    own = peak_memory_bytes(group.device)
    by_rank = [float(own) if rank == group.rank else 0.0 for rank in range(group.world_size)]
    return own, tuple(map(int, group.sum_over_ranks(by_rank)))


def _start(training: _Training) -> _Progress:
    """Step 0, or where the newest checkpoint stands, with weights, optimizer and random state put back."""
    parts, strategy = training.parts, training.parts.strategy
    # One rank looks, and sets aside what is broken; the others read what it found.
    state = None
    if strategy.group.is_main:
        state = find_checkpoint(training.checkpoints, training.identity, training.events)
    step = strategy.group.agree(None if state is None else state.step)
    if step is None:
        return _Progress(Clock(parts.settings.total_steps))
    if state is None:
        state = training.checkpoints.load(training.checkpoints.path_of(step))
    _put_back(parts, state)
    torch.set_rng_state(state.random["torch"])
    return _Progress(
        state.clock,
        state.step,
        state.tokens,
        state.trained_tokens,
        state.elapsed_seconds,
        saved_step=state.step,
        best=state.best,
    )


def _put_back(parts: Parts, state: CheckpointState) -> None:
    """Weights and optimizer as a checkpoint has them, each rank its part."""
    parts.strategy.put_weights(parts.technique, parts.model, dict(state.weights.items()))
    parts.strategy.put_moments(parts.model, parts.optimizer, dict(state.optimizer.items()))


def _take_steps(
    training: _Training,
    progress: _Progress,
    read_wish: Callable[[], Wish],
    validate: Callable[[], ValidationLoss] | None,
) -> Literal["pause", "cancel"] | None:
    """Step after step until training is over, or until the user wishes otherwise."""
    settings, deadline, speed = training.parts.settings, _deadline(training), Speed()
    if deadline is not None and training.parts.strategy.can_try and not _is_over(training, progress):
        # Each rank tries a pack of its own.
        deadline.note_probe(training.parts.strategy.group.agree(_probe_seconds(training, progress.step)))
        _keep_deadline(training, progress, deadline)
    while not _is_over(training, progress):
        wish = read_wish()
        if wish != "continue":
            return wish
        _one_step(training, progress, speed, deadline)
        if validate is not None and _due(progress.step, settings.validate_every_steps):
            _validate(training, progress, validate, deadline)
        if _due(progress.step, settings.checkpoint_every_steps):
            _save(training, progress, deadline)
        if deadline is not None:
            _keep_deadline(training, progress, deadline)
    if validate is not None and settings.patience is not None:
        _validate(training, progress, validate, deadline)
    return None


def _one_step(training: _Training, progress: _Progress, speed: Speed, deadline: Deadline | None) -> None:
    """Take the next step and tell of it."""
    parts, settings = training.parts, training.parts.settings
    started = training.now()
    share = rate_share(progress.clock, progress.step, settings.schedule, settings.warmup)
    outcome = take_step(
        parts,
        progress.step,
        progress.clock.total_steps,
        settings.learning_rate * share,
        count_held=progress.held is None,
    )
    seconds = training.now() - started
    if not outcome.applied:
        _refuse(training, progress, outcome)
    else:
        progress.refused_in_a_row = 0
    progress.held = progress.held or outcome.held
    progress.step += 1
    progress.tokens += outcome.tokens
    progress.trained_tokens += outcome.trained_tokens
    speed.add(outcome.tokens, seconds)
    if deadline is not None:
        deadline.note_step(seconds)
    if outcome.applied and parts.strategy.group.is_main:
        training.events.emit(
            "step",
            progress.step,
            loss=outcome.loss,
            **outcome.metrics,
            learning_rate=settings.learning_rate * share,
            gradient_norm=outcome.gradient_norm,
            tokens=outcome.tokens,
            trained_tokens=outcome.trained_tokens,
            seconds=seconds,
            tokens_per_second=speed.tokens_per_second,
            memory_bytes=peak_memory_bytes(parts.strategy.group.device),
            total_steps=progress.clock.total_steps,
            eta_seconds=(progress.clock.total_steps - progress.step) * speed.seconds_per_step,
            epoch=parts.steps.epoch_of(progress.step),
        )


def _refuse(training: _Training, progress: _Progress, outcome: Outcome) -> None:
    """Stop because of a step whose numbers are not finite, or say that it was skipped."""
    parts = training.parts
    progress.refused_in_a_row += 1
    what = "loss" if not math.isfinite(outcome.loss) else "gradient norm"
    number = progress.step + 1
    too_many = progress.refused_in_a_row >= MOST_REFUSED_IN_A_ROW
    if parts.settings.on_non_finite == "stop" or too_many:
        rows = parts.steps.rows_of(progress.step).tolist()
        raise TrainingError(
            f"the {what} of step {number} is not finite"
            + (f", and {progress.refused_in_a_row} steps in a row were refused" if too_many else ""),
            code="training.not_finite",
            place=", ".join(parts.rows.item(row)[0].place for row in rows[:3]) + (", ..." if len(rows) > 3 else ""),
            value=f"loss {outcome.loss}, gradient norm {outcome.gradient_norm}",
            hint="lower train.learning_rate, look at these rows, or go on without such steps by "
            "train.on_non_finite=skip",
        )
    if parts.strategy.group.is_main:
        training.events.emit(
            "warning",
            number,
            code="training.not_finite",
            message=f"step {number} was skipped: its {what} is not finite; the weights did not change",
        )


def _validate(
    training: _Training, progress: _Progress, validate: Callable[[], ValidationLoss], deadline: Deadline | None
) -> None:
    if progress.best is not None and progress.best.last_step == progress.step:
        return
    started = training.now()
    training.parts.model.eval()
    with result_in_place(training.parts.optimizer, training.parts.trained):
        own = validate()
        result = ValidationLoss(*training.parts.strategy.group.agree([own.loss, own.rows, own.tokens, own.accuracy]))
    training.parts.model.train()
    if training.parts.strategy.group.is_main:
        known = {} if result.accuracy is None else {"accuracy": result.accuracy}
        training.events.emit(
            "evaluation", progress.step, loss=result.loss, **known, rows=result.rows, tokens=result.tokens
        )
    if deadline is not None:
        deadline.note_validation(training.now() - started)
    if training.parts.settings.patience is not None:
        progress.best = judge(progress.best, result.loss, progress.step)
        if progress.best.step == progress.step:
            _save(training, progress, deadline)


def _is_over(training: _Training, progress: _Progress) -> bool:
    """Whether all steps are done, or no validation was better for as long as patience lasts."""
    waited = progress.best is not None and progress.best.is_over(training.parts.settings.patience)
    return waited or progress.step >= progress.clock.total_steps


def _take_best(training: _Training, progress: _Progress) -> None:
    """Put the weights of the best validation back, where one decides and later steps were no better."""
    if progress.best is None or progress.best.step == progress.step:
        return
    parts, best = training.parts, progress.best
    state = training.checkpoints.load(training.checkpoints.path_of(best.step))
    _put_back(parts, state)
    if parts.strategy.group.is_main:
        training.events.emit(
            "warning",
            progress.step,
            code="training.patience",
            message=f"training ended after step {progress.step} of {progress.clock.total_steps}; the result is that of "
            f"step {best.step}, whose held-out loss was the lowest ({best.loss:.4f})",
        )


def _save(training: _Training, progress: _Progress, deadline: Deadline | None) -> None:
    """Save a checkpoint, unless this very step has one."""
    parts = training.parts
    if progress.saved_step == progress.step:
        return
    started = training.now()
    weights = parts.strategy.weights(parts.technique, parts.model)
    moments = parts.strategy.moments(parts.model, parts.optimizer)
    state = CheckpointState(
        step=progress.step,
        clock=progress.clock,
        elapsed_seconds=_elapsed(training, progress),
        tokens=progress.tokens,
        trained_tokens=progress.trained_tokens,
        cursor={"seed": parts.settings.seed, "step": progress.step},
        identity=training.identity,
        versions=library_versions(),
        weights=weights,
        optimizer=moments,
        random={"torch": torch.get_rng_state()},
        best=progress.best,
    )
    try:
        path = training.checkpoints.save(state) if parts.strategy.group.is_main else None
    finally:
        # Also where the disk is full: what is gathered needs every rank.
        go_through(weights)
        go_through(moments)
    if path is not None:
        training.events.emit(
            "checkpoint",
            progress.step,
            path=f"{training.checkpoints.folder.name}/{path.name}",
            kept=training.checkpoints.names(),
        )
    progress.saved_step = progress.step
    if deadline is not None:
        deadline.note_checkpoint(training.now() - started)


def _deadline(training: _Training) -> Deadline | None:
    seconds = training.parts.settings.deadline_seconds
    if seconds is None:
        return None
    # Weights and two moments go to disk.
    return Deadline(seconds, checkpoint_seconds=0.5 + 3 * training.trained_bytes / _GUESSED_BYTES_PER_SECOND)


def _probe_seconds(training: _Training, step: int) -> float:
    """Time of one step by a trial: its first pack forward and backward, the gradients thrown away.

    The pack runs twice and the second time counts, because the first one finds every cache cold; only once where
    that alone takes a good part of the time that there is.
    """
    parts = training.parts
    rows = rows_of_step(parts, step)
    share = packs_of(parts, rows)
    packs = share.all
    surveyed = training.now()
    known = step_sums(parts, share, rows)
    survey_seconds = training.now() - surveyed
    for _ in range(2):
        started = training.now()
        run_pack(parts, packs[0], known, last=True)
        parts.optimizer.zero_grad(set_to_none=True)
        seconds = training.now() - started
        if seconds > _MOST_OF_TRIAL * (parts.settings.deadline_seconds or math.inf):
            break
    return survey_seconds + seconds * sum(pack.tokens for pack in packs) / packs[0].tokens


def _keep_deadline(training: _Training, progress: _Progress, deadline: Deadline) -> None:
    """Move the end of training to where time allows."""
    asked = training.parts.settings.total_steps
    planned = progress.clock.total_steps
    total = deadline.total_steps(progress.step, _elapsed(training, progress), planned, asked)
    progress.clock = progress.clock.change_total(progress.step, total)
    if planned == asked and total < asked and training.parts.strategy.group.is_main:
        training.events.emit(
            "warning",
            progress.step,
            code="training.deadline",
            message=f"the time given allows about {total} of {asked} steps; the schedule is fitted to that",
        )


def _elapsed(training: _Training, progress: _Progress) -> float:
    return progress.earlier_seconds + training.now() - training.started


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
