"""A whole run: prepare, audit, measure the base, train, measure again, report. What is done is not done again."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tunesmith.data.steps import plan_steps
from tunesmith.engine.checkpoint import Checkpoints
from tunesmith.engine.settings import TrainResult, ValidationLoss
from tunesmith.engine.train import train
from tunesmith.errors import TunesmithError
from tunesmith.evaluation.held_out import Item
from tunesmith.evaluation.systems import Measured
from tunesmith.models.allocator import give_back_dropped, give_back_freed
from tunesmith.objectives.table import make_objective
from tunesmith.pipeline.clock import RunClock
from tunesmith.pipeline.data import load_data
from tunesmith.pipeline.exports_of_run import make_exports, require_exports
from tunesmith.pipeline.finish import Finished, finish
from tunesmith.pipeline.learning_curve import measure_learning_curve
from tunesmith.pipeline.measure import Bench, make_bench, measure_few_shot, measure_tuned
from tunesmith.pipeline.meeting import RankJob
from tunesmith.pipeline.merged import with_merged_base
from tunesmith.pipeline.planned import learn_from, plan_run
from tunesmith.pipeline.prepare import Prepared, audit_run, prepare, resolve_run
from tunesmith.pipeline.ranks import joined_ranks, joining
from tunesmith.pipeline.run import (
    Run,
    load_base,
    packing_attention,
    prepare_technique,
    require_whole,
    sizes,
    train_settings,
)
from tunesmith.pipeline.saved import save_result
from tunesmith.pipeline.sharing import mark_of, require_shareable, resolve_anew, shared_job
from tunesmith.pipeline.told import Teller
from tunesmith.pipeline.within_time import base_seconds, measure_base_within
from tunesmith.recipe.load import load_recipe
from tunesmith.recipe.resolved import Resolved, resolved_from_json
from tunesmith.runs.atomic import read_json, remove_scratch, write_json
from tunesmith.runs.control import Wish
from tunesmith.runs.events import EventWriter
from tunesmith.runs.layout import RunFolder
from tunesmith.runs.leaving import last_acts
from tunesmith.strategies.base import Strategy
from tunesmith.techniques.matched import describe_trained
from tunesmith.techniques.table import make_technique

# Rows whose loss is watched while training goes on; more would cost time that the end needs.
MOST_WATCHED_ROWS = 48
# How much longer the tuned model takes than the base: an adapter adds small products to every layer, which hardly
# show over a whole pack but count when tokens are made one by one. Both were measured on two cores, with some to spare.
_LOSSES_AGAINST_BASE = 1.3
_ANSWERS_AGAINST_BASE = 2.0
_FINISHING_SECONDS = 6.0


def run_training(folder: RunFolder, events: EventWriter, read_wish: Callable[[], Wish]) -> None:
    """Bring a run to its end, from wherever an earlier attempt left it.

    Raises:
        TunesmithError: What went wrong, named.
        Stopped: The user paused or cancelled; the run folder says where to go on.
    """
    teller = Teller(events)
    if folder.manifest.exists():
        # The worker was killed between the manifest and this word.
        teller.state("finished")
        return
    remove_scratch(folder.path)
    clock = RunClock(folder.events, events.attempt)
    teller.state("started")
    run = _prepare(folder, teller, clock, read_wish)
    model = load_base(run)
    bench = make_bench(
        run.prepared,
        run.resolved,
        folder.evaluation,
        teller,
        attention=run.attention,
        should_stop=lambda: read_wish() != "continue",
    )
    teller.state("evaluating_base", f"{len(bench.held_out.items)} held-out rows")
    bench, base = measure_base_within(bench, model, base_seconds(bench))
    systems = [system for system in (base, measure_few_shot(bench, model)) if system is not None]
    give_back_freed()
    model, result = _train(run, model, bench, systems)
    if model is None:
        model = _made_whole(run, result)
    save_result(run.folder, run.prepared, run.resolved, make_technique(run.resolved.technique), model)
    teller.events.emit("artifact", kind=make_technique(run.resolved.technique).artifact, path=_result(run).name)
    teller.state("evaluating", f"{len(bench.held_out.items)} held-out rows")
    systems.append(measure_tuned(bench, model))
    parameters = sizes(model)
    # Points of the curve load models of their own.
    del model
    curve = measure_learning_curve(run, bench, systems) if run.resolved.learning_curve else None
    exports = make_exports(folder, run.prepared, run.resolved, teller)
    teller.state("reporting")
    finish(
        Finished(folder, run.prepared, run.resolved, bench.held_out, systems, result, curve, parameters, exports),
        teller,
        clock,
    )
    learn_from(folder, run.prepared, result, attempts=run.teller.events.attempt)
    teller.state("finished")


def _prepare(folder: RunFolder, teller: Teller, clock: RunClock, read_wish: Callable[[], Wish]) -> Run:
    """Model, tokens, audit and resolved values; the values of an earlier attempt stand."""
    recipe = load_recipe(folder.recipe)
    teller.state("preparing", recipe.model)

    def should_stop() -> bool:
        return read_wish() != "continue"

    prepared = prepare(recipe, load_data(recipe.data, recipe.train.seed), folder.path.parent, teller, should_stop)
    teller.state(
        "auditing", f"{len(prepared.train.items):,} training rows, {len(prepared.validation.items):,} held out"
    )
    found = audit_run(prepared, should_stop=should_stop)
    write_json(folder.audit, found.to_json())
    teller.events.emit("artifact", kind="audit", path=folder.audit.name)
    teller.warn(found.warnings, "audit")
    found.require_ok()
    is_new = not folder.resolved.exists()
    resolved = resolve_run(prepared) if is_new else resolved_from_json(read_json(folder.resolved))
    try:
        resolved = plan_run(folder, prepared, resolve_anew(folder, prepared, resolved), teller, is_new=is_new)
        require_shareable(prepared, resolved)
        require_exports(prepared, resolved)
        write_json(folder.resolved, resolved.to_json())
    finally:
        # Whatever came of it, the next attempt is asked anew.
        folder.resume.unlink(missing_ok=True)
    _tell_resolved(folder, prepared, resolved, teller)
    prepared = with_merged_base(folder, prepared, teller)
    return Run(folder, prepared, resolved, teller, clock, read_wish, packing_attention(prepared, teller))


def _tell_resolved(folder: RunFolder, prepared: Prepared, resolved: Resolved, teller: Teller) -> None:
    """Tell of the values, and of those that need the rows to be read: how often each is seen, how many make a step."""
    lengths_B = prepared.train.items.lengths_B
    steps = plan_steps(lengths_B, tokens_per_step=resolved.tokens_per_step, seed=resolved.seed)
    teller.events.emit(
        "artifact",
        kind="resolved",
        path=folder.resolved.name,
        epochs=resolved.epochs,
        rows_per_step=len(lengths_B) / steps.steps_per_epoch,
    )


def _train(run: Run, model: Any, bench: Bench, before: list[Measured]) -> tuple[Any | None, TrainResult]:
    """The trained model, and what its training was; None where the ranks had parts of it only, which are let go."""
    prepared = run.prepared
    model = prepare_technique(run, model, prepared.train.items)
    watched = _watched(bench.held_out.items)
    job = shared_job(run, watched)

    def say(error: TunesmithError) -> None:
        run.teller.events.emit("status", state="failed")
        run.teller.events.emit("error", **error.to_json())
        # Where the run lies in a store, the word has to get there.
        last_acts(error.exit_code)

    if job.nodes > 1:
        run.teller.state(
            "meeting", f"{job.nodes} are wanted; on each of the others run: tunesmith join {run.folder.name}"
        )
    came = run.clock.elapsed_seconds()
    with joined_ranks(
        run.folder.path, job, on_stuck=say, should_stop=lambda: run.read_wish() != "continue"
    ) as strategy:
        # Only now, since the other ranks take their time to come; a budget is not for waiting for machines.
        waited = run.clock.elapsed_seconds() - came if job.nodes > 1 else 0.0
        deadline = _deadline(run, before, waited)
        _, settings = train_settings(run, prepared.train.items, deadline_seconds=deadline)
        trained, total = sizes(model)
        run.teller.state(
            "training",
            f"at most {settings.total_steps:,} steps, {trained:,} of {total:,} parameters train: "
            f"{describe_trained(model)}",
            deadline_seconds=deadline,
        )
        result = _train_under(strategy, run, model, deadline, lambda: _watch(model, watched, bench))
    require_whole(run, result)
    return (model if strategy.keeps_whole else None), result


def _train_under(
    strategy: Strategy, run: Run, model: Any, deadline_seconds: float | None, validate: Callable[[], ValidationLoss]
) -> TrainResult:
    rows = run.prepared.train.items
    steps, settings = train_settings(run, rows, deadline_seconds=strategy.group.agree(deadline_seconds))
    return train(
        model,
        technique=make_technique(run.resolved.technique),
        objective=make_objective(run.resolved.objective),
        strategy=strategy,
        rows=rows,
        steps=steps,
        settings=settings,
        checkpoints=Checkpoints(run.folder.checkpoints, run.resolved.keep_checkpoints),
        events=run.teller.events,
        read_wish=run.read_wish,
        validate=validate,
    )


def _made_whole(run: Run, result: TrainResult) -> Any:
    """The trained model anew, out of the base and the last checkpoint, where ranks have parts of weights only."""
    # Strategies that cut are chosen where two do not fit: what this rank had goes before a whole model comes.
    give_back_dropped()
    checkpoints = Checkpoints(run.folder.checkpoints, run.resolved.keep_checkpoints)
    whole = prepare_technique(run, load_base(run), run.prepared.train.items)
    weights = checkpoints.load_weights(checkpoints.path_of(result.best_step or result.steps))
    make_technique(run.resolved.technique).load_trainable_state(whole, weights)
    return whole.eval()


def run_rank(folder: RunFolder, job: RankJob) -> None:
    """Another rank's part of a training: the same model and rows, nothing written, nothing told.

    Raises:
        TunesmithError: What went wrong, named.
    """
    events = EventWriter(Path(os.devnull), 1, 1)
    recipe, teller = load_recipe(folder.recipe), Teller(events)
    prepared = prepare(recipe, load_data(recipe.data, recipe.train.seed), folder.path.parent, teller)
    prepared = with_merged_base(folder, prepared, teller)
    resolved = resolved_from_json(read_json(folder.resolved))
    clock = RunClock(folder.events, 1)
    run = Run(folder, prepared, resolved, teller, clock, lambda: "continue", packing_attention(prepared, teller))
    model = prepare_technique(run, load_base(run), prepared.train.items)
    bench = make_bench(
        prepared, resolved, folder.evaluation, teller, attention=run.attention, should_stop=lambda: False
    )
    with joining(job) as strategy:
        marked = {mark_of(item): item for item in bench.held_out.items}
        watched = [marked[mark] for mark in job.watched]
        _train_under(strategy, run, model, None, lambda: _watch(model, watched, bench))


def _watched(items: Sequence[Item]) -> list[Item]:
    """The first items; of rated answers the wanted ones come first, since only they have a loss that should fall."""
    return sorted(items, key=lambda item: not any(row.kind == 1 for row in item))[:MOST_WATCHED_ROWS]


def _watch(model: Any, items: list[Item], bench: Bench) -> ValidationLoss:
    losses = bench.ruler.losses(model, items, lambda _: None, lambda: False)
    return ValidationLoss(losses.mean, len(items), sum(losses.counts_B), losses.accuracy)


def _deadline(run: Run, before: list[Measured], waited_seconds: float) -> float | None:
    """Seconds that training may take: what the budget leaves, less what measuring and reporting will need."""
    budget = run.resolved.budget_seconds
    if budget is None:
        return None
    known = run.clock.remembered_deadline()
    if known is not None:
        return known
    base = before[0]
    answers = _ANSWERS_AGAINST_BASE * base.answer_seconds
    reserve = _LOSSES_AGAINST_BASE * (base.loss_seconds + base.beside_seconds) + answers + _FINISHING_SECONDS
    left = budget + waited_seconds - run.clock.elapsed_seconds() - reserve
    if left <= 0:
        run.teller.warn(
            [f"measuring the base model has used up the budget of {budget:.0f} s; one step is trained"], "train.budget"
        )
    return max(left, 1.0)


def _result(run: Run) -> Path:
    is_adapter = make_technique(run.resolved.technique).artifact == "adapter"
    return run.folder.adapter if is_adapter else run.folder.model
