"""``tunesmith plan``: memory, time and price of a recipe before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import (
    AsJson,
    Columns,
    Data,
    Model,
    OnBadRows,
    RunsFolder,
    Shape,
    Task,
    column_map,
    runs_folder,
)
from tunesmith.cli.tables import Cell, Column, print_table
from tunesmith.cli.terminal import note, out, out_json
from tunesmith.cli.words import NOTHING, duration, storage
from tunesmith.errors import UsageError

if TYPE_CHECKING:
    from tunesmith.jobs.planning import Planned
    from tunesmith.planner.alternatives import Alternative
    from tunesmith.planner.counted import Question
    from tunesmith.planner.trained import Counted
    from tunesmith.recipe.schema import Recipe

app = new_app()


@app.command()
def plan(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE|KEY=VALUE", help="A recipe file, then values such as technique=qlora."),
    ] = None,
    *,
    model: Model = None,
    data: Data = None,
    hardware: Annotated[
        str | None,
        typer.Option(
            metavar="ID|FILE", help="What to plan for: a known machine or a file; else this-machine, this one."
        ),
    ] = None,
    devices: Annotated[int | None, typer.Option(metavar="N", help="How many GPUs of a machine share the work.")] = None,
    nodes: Annotated[int | None, typer.Option(metavar="M", help="How many machines share it.")] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Train a few steps here first, so that the plan knows this machine.")
    ] = False,
    task: Task = None,
    shape: Shape = None,
    column: Columns = None,
    on_bad_rows: OnBadRows = None,
    output: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say what a training would take, before it is trained: memory by part, steps, time, and a price if there is one.

    The rows are counted once, by the model's tokenizer, and remembered; of a model that is not on this machine their
    tokens are guessed. What a technique trains that no formula tells is counted once too, in the model built without
    weights. `train` makes the same plan, refuses what does not fit, and its report holds it against what the run took.
    """
    from tunesmith.cli.train import build_recipe
    from tunesmith.jobs.planning import plan_recipe

    options = {
        "model": model,
        "data.train": data,
        "data.columns": column_map(column),
        "data.shape": shape,
        "data.on_bad_rows": on_bad_rows,
        "task": task,
        "train.devices": devices,
        "train.nodes": nodes,
    }
    recipe = build_recipe(arguments or [], options)
    folder = runs_folder(output)
    if probe and hardware not in (None, "this-machine"):
        raise UsageError(
            "steps can be tried on this machine alone",
            code="usage.probe",
            place="--probe",
            hint="leave out --hardware or --probe",
        )
    planned = plan_recipe(recipe, folder, hardware, auditing(recipe, folder), counting)
    if probe:
        _probe(recipe, planned)
        planned = plan_recipe(recipe, folder, hardware, auditing(recipe, folder), counting)
    if as_json:
        out_json(planned.to_json())
    else:
        print_plan(planned)


def _probe(recipe: Recipe, planned: Planned) -> None:
    from tunesmith.cli.progress import open_view, showing
    from tunesmith.jobs.probe import STEPS
    from tunesmith.jobs.probe import probe as try_steps
    from tunesmith.planner.calibration import LEAST_STEPS

    note(f"trying {STEPS} steps", "bold")
    with open_view() as view:
        tried = try_steps(recipe, planned.resolved, showing(view))
    if tried < LEAST_STEPS:
        told = f"{tried} steps were tried, and of fewer than {LEAST_STEPS} a plan learns nothing"
        note(f"{told}: make steps smaller (train.tokens_per_step), or give more rows", "yellow")


def auditing(recipe: Recipe, folder: Path) -> Callable[[], Mapping[str, Any]]:
    """Runs the worker's audit of a recipe's rows, whose errors are raised, and gives the content of its facts.json."""

    def audit() -> Mapping[str, Any]:
        from tunesmith.cli.audit_view import run_audit
        from tunesmith.recipe.load import dump_recipe

        result = run_audit(dump_recipe(recipe), folder)
        if result.error is not None:
            raise result.error
        return result.facts

    return audit


def counting(question: Question) -> Counted:
    """Count what a technique trains by a worker, which takes seconds and is shown."""
    from tunesmith.cli.progress import open_view, showing
    from tunesmith.jobs.stages import count

    with open_view() as view:
        return count(question, showing(view))


def print_plan(planned: Planned) -> None:
    """The plan for a terminal: the answer first, then its parts, then other ways."""
    plan, memory, time = planned.plan, planned.plan.memory, planned.plan.time
    where = planned.hardware
    there = where.device_memory_bytes or where.host_memory_bytes
    sharing = "" if plan.devices * plan.nodes == 1 else f" on each of {plan.devices * plan.nodes} devices"
    verdict = "fits" if plan.fits else "does not fit"
    out(f"{plan.model} with {plan.technique}, {plan.strategy}, {plan.precision}, on {where.name}")
    answer = f"{verdict}: {storage(memory.peak)}{sharing} at most, {storage(there)} are there"
    out(answer, "green" if plan.fits else "red")
    if memory.offloaded:
        out(f"the host keeps {storage(memory.offloaded)}, and has {_or_unknown(where.host_memory_bytes)}")
    out(f"about {duration(time.total_seconds)}: {_steps(planned)}, measuring {duration(time.evaluation_seconds)}")
    if time.price is not None:
        out(f"price: {time.price:.2f} {time.currency} ({where.price_source}, {where.price_date})")
    out("")
    print_table(
        [Column("memory of a device"), Column("", right=True)],
        [[name, storage(size)] for name, size in memory.parts.items() if size] + [["in all", storage(memory.training)]],
    )
    out("")
    known = "" if memory.trained_is_known else " (a guess)"
    largest = plan.largest_micro_batch
    facts = [
        ("trained parameters", f"{memory.trained_parameters:,} of {plan.parameters:,}{known}"),
        ("memory of the host", storage(memory.host)),
        ("disk for checkpoints", storage(memory.checkpoints)),
        ("largest pack that fits", "none" if largest is None else f"{largest:,} tokens (now {memory.pack_tokens:,})"),
        ("longest row that fits", "none" if plan.longest_context is None else f"{plan.longest_context:,} tokens"),
    ]
    print_table([Column("also"), Column("", right=True)], [list(one) for one in facts])
    out("")
    _print_ways(planned)
    for line in planned.left_out:
        note(f"left out: {line}", "dim")
    for one in planned.changes:
        took = duration(one.total_seconds)
        if not one.same_work:
            took += f" for {one.epochs:.2g} epochs, {duration(one.equal_seconds)} for equal work"
        sizes = f"{storage(one.peak_bytes)}, {took}"
        note(f"would fit{_if_the_host_has(one, planned)}: {' '.join(one.settings)} ({sizes})", "bold")
    if plan.devices * plan.nodes > 1:
        note(f"{plan.strategy}: {planned.resolved.reasons['strategy']}", "dim")
    reason = planned.resolved.reasons["train.activation_checkpointing"]
    if planned.resolved.activation_checkpointing and reason.startswith("auto"):
        note(f"`train` computes activations again: {reason}", "dim")
    for line in plan.notes:
        note(f"note: {line}", "dim")


def _if_the_host_has(one: Alternative, planned: Planned) -> str:
    """What stays open of a way that offloads to a host of unknown memory."""
    unknown = one.offloaded_bytes and planned.hardware.host_memory_bytes is None
    return f" if the host has {storage(one.offloaded_bytes)}" if unknown else ""


def _or_unknown(size: int | None) -> str:
    return "unknown memory" if size is None else storage(size)


def _steps(planned: Planned) -> str:
    time = planned.plan.time
    within = " within the budget" if time.within_budget else ""
    return f"{time.steps:,} steps of {duration(time.step_seconds)}{within}"


def _way_name(one: Alternative, planned: Planned) -> str:
    """Its settings, and what the plan chooses in another way for it where that was left open."""
    settings = " ".join(one.settings)
    chosen = [one.strategy] if one.strategy != planned.plan.strategy and "strategy=" not in settings else []
    before, again = planned.resolved.activation_checkpointing, one.activation_checkpointing
    if again != before and "activation_checkpointing=" not in settings:
        chosen.append("activations again" if again else "no activations again")
    return settings + (f" ({', '.join(chosen)})" if chosen else "") or "as it is"


def _print_ways(planned: Planned) -> None:
    """The same in other ways; with the host's memory where devices have their own, and prices where there are any.

    Where they do not train equally much, how often rows are seen, and the time of as much as the first.
    """
    unequal = not all(one.same_work for one in planned.others)
    own_memory = planned.hardware.device_memory_bytes is not None
    priced = planned.plan.time.price is not None
    right = ["memory", "host", "disk", "time", "epochs", "equal work", "price"]
    left_out = {"host": not own_memory, "epochs": not unequal, "equal work": not unequal, "price": not priced}
    right = [name for name in right if not left_out.get(name)]
    columns = [Column("otherwise"), *(Column(name, right=True) for name in (*right, "pack", "row")), Column("fits")]
    rows: list[list[str | Cell]] = []
    for one in planned.others:
        cells = {
            "memory": storage(one.peak_bytes),
            "host": storage(one.host_bytes),
            "disk": storage(one.checkpoint_bytes),
            "time": duration(one.total_seconds),
            "epochs": f"{one.epochs:.2g}",
            "equal work": duration(one.equal_seconds),
            "price": NOTHING if one.price is None else f"{one.price:.2f} {one.currency}",
        }
        longest = [NOTHING if size is None else f"{size:,}" for size in (one.largest_micro_batch, one.longest_context)]
        fits = Cell("yes" + _if_the_host_has(one, planned)) if one.fits else Cell("no", "red")
        rows.append([_way_name(one, planned), *(cells[name] for name in right), *longest, fits])
    print_table(columns, rows)
    if unequal:
        note("equal work: the time of as much training as that of the recipe as it is", "dim")
    note("pack and row: the most tokens of either that fit; the parts of memory of each are in --json", "dim")
