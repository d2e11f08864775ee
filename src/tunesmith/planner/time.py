"""Time of a run: steps, seconds of a step, of training, of measuring, of all; and what that costs.

    plan = predict_time(shape, resolved, data, hardware)

Work is counted in operations of matrix products. A matrix of P numbers takes 2 P a token forward, 2 P for the gradient
of its inputs on the way back, and 2 P more where it trains (Kaplan et al. 2020, with 6 P in all); so 4 P under an
adapter. Attention takes 4 Q operations for each key that a token sees, Q the size of all queries, and twice that on the
way back. Scores are made where something is learned and nowhere else. A layer that computes its activations again runs
forward once more. Time is operations over the speed of products, of which whole steps reach a share; what moves bytes
and computes little (the optimizer, quantized weights, messages, answers token by token) is counted by its bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tunesmith.planner.hardware import Hardware
from tunesmith.planner.packs import Packs, plan_packs
from tunesmith.planner.shape import ModelShape
from tunesmith.planner.sizes import Sizes, whole_sizes
from tunesmith.planner.trained import Counted, adapted_matrices
from tunesmith.recipe.facts import DataFacts
from tunesmith.recipe.objectives import HEADS
from tunesmith.recipe.resolved import Resolved
from tunesmith.recipe.strategies import CUT_MOMENTS, CUT_WEIGHTS
from tunesmith.recipe.techniques import OWN_WEIGHTS, Freeze, Quantized

# Passes forward without gradient beside the learning one: the model before training, and for KTO both models on
# prompts with the answers of other rows.
REFERENCE_PASSES = {"dpo": 1, "kto": 3}
# Of the products' speed answers reach far less than training: measured on two cores.
REACHED_IN_ANSWERS = 0.15
# Answers take a share of their room on average.
ROOM_USED = 0.5
ANSWER_TOKENS = 16_384
# A step of answers is a few dozen calls a layer, each of which the host has to start.
LAYER_CALL_SECONDS = {"cpu": 1e-4, "cuda": 8e-4}
# Rows whose loss is watched while training goes on.
WATCHED_ROWS = 48
# Parts of the learning curve: trainings on a quarter and on a half of the rows.
CURVE_FRACTIONS = (0.25, 0.5)
# AdamW reads weight, gradient and two moments, and writes all but the gradient.
OPTIMIZER_TRAFFIC = 28
# Written, flushed and hashed.
CHECKPOINT_BYTES_PER_SECOND = 400e6
# Bytes that a method moves beside its products for each token and each number that its matrices give, forward and back:
# the library's DoRA scales all of them by lengths that it makes anew. Measured on two cores.
METHOD_TRAFFIC = {"dora": 128, "qdora": 128}
# Between the host's memory and a device: sixteen lanes of PCI Express 4, three quarters reached.
HOST_LINK_BYTES_PER_SECOND = 24e9
# Starting, reading rows, loading the model a few times, reporting.
OTHER_SECONDS = 8.0
LOADS, LOAD_BYTES_PER_SECOND = 2, 1e9


@dataclass(frozen=True)
class TimePlan:
    """Seconds of a run. ``tokens`` are those of all rows seen, ``computed_tokens`` what of them goes through the model.

    ``step_seconds`` is one step with all its packs, ``communication_seconds`` the part of it that messages take.
    ``within_budget`` says that the recipe's time is over before its epochs are. ``price`` is None without prices.
    """

    steps: int
    tokens: int
    computed_tokens: int
    operations_per_token: float
    step_seconds: float
    communication_seconds: float
    training_seconds: float
    evaluation_seconds: float
    other_seconds: float
    total_seconds: float
    within_budget: bool
    price: float | None
    currency: str | None


@dataclass(frozen=True)
class _Work:
    """What is to be done, and on what."""

    shape: ModelShape
    resolved: Resolved
    data: DataFacts
    hardware: Hardware
    sizes: Sizes
    packs: Packs

    @property
    def ranks(self) -> int:
        """Processes that train."""
        return self.resolved.devices * self.resolved.nodes

    @property
    def turns(self) -> int:
        """Packs of a step on one rank."""
        return math.ceil(self.packs.count / self.ranks)

    @property
    def writes(self) -> bool:
        """Whether scores of a vocabulary are made."""
        return self.resolved.objective.name not in HEADS and self.shape.kind == "causal"

    @property
    def row_labels(self) -> float:
        """Trained tokens of a row on average."""
        return self.data.trained_tokens / max(1, self.data.rows)

    @property
    def speed(self) -> float:
        """Operations a second of one device in training."""
        return self.hardware.flops_per_second(self.resolved.precision) * self.hardware.share_reached

    @property
    def layer_forward(self) -> float:
        """Operations of one layer for a computed token."""
        return 2 * self.shape.layer_matrices + self.layer_attention

    @property
    def layer_attention(self) -> float:
        """Operations of one layer's attention for a computed token."""
        return 4 * self.shape.query_size * self.packs.seen_keys

    @property
    def output_matrix(self) -> int:
        """Numbers of the matrix that makes scores."""
        return self.shape.vocabulary_size * self.shape.hidden_size if self.writes else 0


def predict_time(
    shape: ModelShape,
    resolved: Resolved,
    data: DataFacts,
    hardware: Hardware,
    *,
    counted: Counted | None = None,
    new_tokens: int = 0,
) -> TimePlan:
    """Time of a resolved recipe on some hardware; arguments as for :func:`tunesmith.planner.memory.predict_memory`."""
    sizes = whole_sizes(shape, resolved, data, counted=counted, new_tokens=new_tokens)
    work = _Work(shape, resolved, data, hardware, sizes, plan_packs(shape, resolved, data))
    scale = hardware.time_scale
    messages = _communication(work) * scale
    step = _step_seconds(work) * scale + messages
    between = _between(work) * scale
    a_system = _system_seconds(work) * scale
    evaluation = _systems(resolved) * a_system
    other = OTHER_SECONDS + LOADS * sizes.weights / LOAD_BYTES_PER_SECOND
    steps_of_epoch = max(1, min(data.rows, round(data.tokens / resolved.tokens_per_step)))
    steps = asked = max(1, round(resolved.epochs * steps_of_epoch))
    if resolved.budget_seconds is not None:
        left = resolved.budget_seconds - evaluation - other
        steps = min(asked, max(1, int(left / (step + between))))
    training = steps * (step + between)
    if resolved.learning_curve:
        evaluation += sum(max(1, round(share * asked)) * step + a_system for share in CURVE_FRACTIONS)
    total = training + evaluation + other
    return TimePlan(
        steps=steps,
        tokens=round(steps * work.packs.row_count * data.mean_row_tokens),
        computed_tokens=round(steps * work.packs.step_tokens),
        operations_per_token=_operations(work),
        step_seconds=step,
        communication_seconds=messages,
        training_seconds=training,
        evaluation_seconds=evaluation,
        other_seconds=other,
        total_seconds=total,
        within_budget=steps < asked,
        price=price_of(resolved, hardware, total),
        currency=hardware.currency,
    )


def seconds_of_work(
    shape: ModelShape,
    resolved: Resolved,
    data: DataFacts,
    hardware: Hardware,
    tokens: float,
    *,
    counted: Counted | None = None,
    new_tokens: int = 0,
) -> float:
    """Seconds of a run that trains so many tokens of rows, whatever its epochs and its budget come to.

    So ways can be held against each other: epochs that are left open, and a budget of time, give a slower one less to
    do. Steps need not be whole, and what happens between them is left out, since each run's length decides how often.
    """
    sizes = whole_sizes(shape, resolved, data, counted=counted, new_tokens=new_tokens)
    work = _Work(shape, resolved, data, hardware, sizes, plan_packs(shape, resolved, data))
    step = (_step_seconds(work) + _communication(work)) * hardware.time_scale
    training = tokens / (work.packs.row_count * max(1.0, data.mean_row_tokens)) * step
    systems, shares = _systems(resolved), 1.0
    if resolved.learning_curve:
        systems, shares = systems + len(CURVE_FRACTIONS), shares + sum(CURVE_FRACTIONS)
    measuring = systems * _system_seconds(work) * hardware.time_scale
    return shares * training + measuring + OTHER_SECONDS + LOADS * sizes.weights / LOAD_BYTES_PER_SECOND


def price_of(resolved: Resolved, hardware: Hardware, seconds: float) -> float | None:
    """What a run of so many seconds costs; None without prices."""
    if hardware.price_per_hour is None:
        return None
    devices = 1 if hardware.device == "cpu" else resolved.devices
    return hardware.price_per_hour * devices * resolved.nodes * seconds / 3600


def _operations(work: _Work) -> float:
    """Operations of matrix products for a computed token of training, forward and back."""
    technique, layers, wish = work.resolved.technique, work.shape.layers, work.resolved.activation_checkpointing
    learning = min(technique.layers, layers) if isinstance(technique, Freeze) else layers
    weights_too = 2 if technique.name in OWN_WEIGHTS else 1
    back = weights_too * 2 * work.shape.layer_matrices + 2 * work.layer_attention
    again = layers if wish is True else min(int(wish), layers)
    references = REFERENCE_PASSES.get(work.resolved.objective.name, 0)
    # The first layers compute again; of those that do not learn nothing is asked for.
    forwards = layers * (1 + references) + max(0, again - (layers - learning))
    # Forward, the gradient of the inputs, and that of the adapters themselves.
    adapters = 0 if technique.name in OWN_WEIGHTS else 6 * work.sizes.trained
    labels = work.packs.row_count * work.row_labels / work.packs.step_tokens
    passes = (3 if technique.name == "full" else 2) + references
    scores = labels * passes * 2 * work.output_matrix
    return forwards * work.layer_forward + learning * back + adapters + scores


def _step_seconds(work: _Work) -> float:
    """All packs of a step, and the optimizer."""
    resolved, hardware = work.resolved, work.hardware
    # Processes share a processor; GPUs work side by side, as far as there are packs for them.
    at_once = resolved.nodes if hardware.device == "cpu" else min(work.ranks, work.packs.count)
    seconds = work.packs.step_tokens * _operations(work) / (work.speed * at_once)
    of_moments = work.ranks if resolved.strategy in CUT_MOMENTS else 1
    seconds += OPTIMIZER_TRAFFIC * work.sizes.trained / of_moments / hardware.bandwidth
    if isinstance(resolved.technique, Quantized):
        # Packed weights are read and plain ones written and read, on the way forward and on the way back.
        packed = work.shape.layers * work.shape.layer_matrices
        seconds += work.turns * 2 * packed * (1 + 2 * work.sizes.number) / hardware.bandwidth
    traffic = METHOD_TRAFFIC.get(resolved.technique.name, 0)
    if traffic:
        matrices = [one.matrix.outputs for layer in adapted_matrices(work.shape, resolved.technique) for one in layer]
        seconds += work.packs.step_tokens * traffic * sum(matrices) / hardware.bandwidth / at_once
    return seconds


def _communication(work: _Work) -> float:
    """Seconds of a step that messages take, as if nothing else went on meanwhile.

    A ring of n sends (n - 1) / n of what is summed twice, of what is gathered once (Patarasuk and Yuan 2009).
    """
    resolved, hardware, sizes = work.resolved, work.hardware, work.sizes
    cut = resolved.strategy in CUT_WEIGHTS
    # Weights are gathered forward and back, pack by pack, and their gradients summed into parts.
    gathered = work.turns * 2 * (sizes.weights + sizes.adapters)
    seconds = 0.0
    if work.ranks > 1:
        sent = gathered + work.turns * sizes.gradients if cut else 2 * sizes.gradients
        rate = hardware.link if resolved.nodes == 1 else min(hardware.link, hardware.network_bytes_per_second)
        seconds += (work.ranks - 1) / work.ranks * sent / rate
    if resolved.offload:
        moved = 2 * sizes.gradients + (gathered if cut else 0)
        seconds += moved / work.ranks / HOST_LINK_BYTES_PER_SECOND
    return seconds


def _between(work: _Work) -> float:
    """Seconds a step of what happens between steps: watching the loss on held-out rows, and checkpoints."""
    seconds = 0.0
    if work.resolved.validate_every_steps:
        rows = min(WATCHED_ROWS, work.resolved.evaluation_rows, work.data.validation_rows)
        seconds += rows * _row_seconds(work) / work.resolved.validate_every_steps
    if work.resolved.checkpoint_every_steps:
        written = work.sizes.gradients + work.sizes.optimizer
        seconds += written / CHECKPOINT_BYTES_PER_SECOND / work.resolved.checkpoint_every_steps
    return seconds


def _systems(resolved: Resolved) -> int:
    """What is measured: the model before and after training, and with examples in its prompt."""
    return 2 + (1 if resolved.few_shot and resolved.max_new_tokens else 0)


def _system_seconds(work: _Work) -> float:
    """Seconds of measuring one system on one device: the loss of each row, and an answer to its question."""
    rows = min(work.resolved.evaluation_rows, work.data.validation_rows)
    if not rows:
        return 0.0
    seconds = rows * _row_seconds(work)
    if work.resolved.max_new_tokens and work.writes:
        seconds += rows * _row_seconds(work) + _answer_seconds(work, rows)
    return seconds


def _row_seconds(work: _Work) -> float:
    """One row forward; what rows begin with in common is computed once a pack."""
    tokens = work.packs.step_tokens / work.packs.row_count
    operations = tokens * work.shape.layers * work.layer_forward + work.row_labels * 2 * work.output_matrix
    return operations / work.speed


def _answer_seconds(work: _Work, rows: int) -> float:
    """Answers to so many questions, in batches: each step reads all weights once and computes a token a row."""
    room, hardware, layers = work.resolved.max_new_tokens, work.hardware, work.shape.layers
    at_once = max(1.0, min(float(rows), ANSWER_TOKENS / (work.data.mean_row_tokens + room)))
    inside = layers * work.shape.layer_matrices
    read = work.sizes.weights + work.sizes.adapters
    if isinstance(work.resolved.technique, Quantized):
        read += 2 * work.sizes.number * inside
    speed = hardware.flops_per_second(work.resolved.precision) * REACHED_IN_ANSWERS
    a_step = read / hardware.bandwidth + layers * LAYER_CALL_SECONDS[hardware.device]
    a_step += at_once * 2 * (inside + work.output_matrix) / speed
    return rows / at_once * ROOM_USED * room * a_step
