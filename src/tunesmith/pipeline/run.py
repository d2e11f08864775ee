"""What the stages of one run share, and how its model and its settings are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from tunesmith.data.grouping import rows_that_begin_alike
from tunesmith.data.steps import StepPlan, plan_steps
from tunesmith.data.types import TokenSet
from tunesmith.engine.settings import TrainResult, TrainSettings
from tunesmith.errors import Stopped
from tunesmith.formats.read import choose_rows
from tunesmith.models.attention import ATTENTION, supports_packing
from tunesmith.models.check import read_config
from tunesmith.models.load import LoadPlan, load_model
from tunesmith.models.new_tokens import add_token_rows
from tunesmith.pipeline.clock import RunClock
from tunesmith.pipeline.prepare import Prepared, head_of
from tunesmith.pipeline.told import Teller
from tunesmith.recipe.resolved import Resolved
from tunesmith.recipe.strategies import CUT_WEIGHTS
from tunesmith.runs.control import Wish
from tunesmith.runs.layout import RunFolder
from tunesmith.techniques.table import make_technique

# From so many items a technique that begins from the data sees how it is spread.
SAMPLE_ROWS = 64


@dataclass(frozen=True)
class Run:
    """What the stages of one run share."""

    folder: RunFolder
    prepared: Prepared
    resolved: Resolved
    teller: Teller
    clock: RunClock
    read_wish: Callable[[], Wish]
    attention: str


def weights_type(resolved: Resolved) -> torch.dtype:
    """The type to load weights in: frozen ones in that of the products, which saves casts and memory."""
    frozen = make_technique(resolved.technique).artifact == "adapter"
    return torch.bfloat16 if frozen and resolved.precision == "bfloat16" else torch.float32


def load_base(run: Run) -> Any:
    """The model before training, on the run's device."""
    prepared, resolved = run.prepared, run.resolved
    head = head_of(prepared, resolved.objective, resolved.seed)
    quantization = make_technique(resolved.technique).quantization
    if quantization is not None and resolved.strategy in CUT_WEIGHTS:
        quantization = replace(quantization, as_numbers=True)
    plan = LoadPlan(
        prepared.model.folder,
        weights_type(resolved),
        prepared.host.device,
        run.attention,
        head=head,
        quantization=quantization,
    )
    model = load_model(plan)
    add_token_rows(model, prepared.new_token_ids)
    return model


def prepare_technique(run: Run, model: Any, rows: TokenSet) -> Any:
    """The model ready to train on some rows; techniques that begin from the data see a sample of them."""
    items = choose_rows(len(rows), SAMPLE_ROWS, run.resolved.seed)
    sample = [row for item in items for row in rows.item(item)]
    technique = make_technique(run.resolved.technique)
    return technique.prepare(model, run.resolved.seed, sample, run.prepared.new_token_ids)


def require_whole(run: Run, result: TrainResult) -> None:
    """Raise :class:`Stopped` where the user stopped a training."""
    if result.stopped is not None:
        word = "paused" if result.stopped == "pause" else "cancelled"
        raise Stopped(f"the run was {word} after step {result.steps}", code=f"run.{word}", place=run.folder.name)


def train_settings(run: Run, rows: TokenSet, *, deadline_seconds: float | None) -> tuple[StepPlan, TrainSettings]:
    """The steps and settings of a training on some rows."""
    resolved = run.resolved
    steps = plan_steps(
        rows.lengths_B,
        tokens_per_step=resolved.tokens_per_step,
        seed=resolved.seed,
        group_of_B=rows_that_begin_alike(rows) if resolved.sampler == "grouped" else None,
    )
    packed = run.attention == ATTENTION
    settings = TrainSettings(
        total_steps=steps.steps_in(resolved.epochs),
        seed=resolved.seed,
        optimizer=resolved.optimizer,
        learning_rate=resolved.learning_rate,
        schedule=resolved.schedule,
        warmup=resolved.warmup,
        weight_decay=resolved.weight_decay,
        clip=resolved.clip,
        tokens_per_micro_batch=resolved.tokens_per_micro_batch,
        layout=resolved.layout if packed else "padded",
        share_prefix=resolved.share_prefix and packed,
        activation_checkpointing=resolved.activation_checkpointing,
        checkpoint_every_steps=resolved.checkpoint_every_steps,
        validate_every_steps=resolved.validate_every_steps,
        patience=resolved.patience,
        neftune_alpha=resolved.neftune_alpha,
        on_non_finite=resolved.on_non_finite,
        deadline_seconds=deadline_seconds,
        precision=resolved.precision,
    )
    return steps, settings


def sizes(model: Any) -> tuple[int, int]:
    """How many parameters train, and how many there are."""
    parameters = list(model.parameters())
    return sum(one.numel() for one in parameters if one.requires_grad), sum(one.numel() for one in parameters)


def packing_attention(prepared: Prepared, teller: Teller) -> str:
    """Packed attention where it is exact for the model, else the library's own with one row a pack."""
    longest = max(int(store.lengths_B.max(initial=0)) for store in (prepared.train, prepared.validation))
    reason = supports_packing(read_config(prepared.model.folder), longest)
    if reason is None:
        return ATTENTION
    teller.warn([f"rows go through one at a time: {reason}"], "train.layout")
    return "sdpa"
