"""The plan of a run: made before anything is measured, held against what the run then took, and learned from."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from tunesmith.engine.settings import TrainResult
from tunesmith.errors import ModelError, RecipeError, ResourceError, UsageError
from tunesmith.pipeline.clock import RunClock
from tunesmith.pipeline.counting import count_trained
from tunesmith.pipeline.prepare import Prepared, data_facts, resolve_run
from tunesmith.pipeline.sharing import require_shareable
from tunesmith.pipeline.told import Teller
from tunesmith.planner.alternatives import Alternative, cheapest_fits
from tunesmith.planner.calibration import LEAST_STEPS, apply, learn, read_calibration
from tunesmith.planner.changes import Change, Settings, changed_recipe
from tunesmith.planner.counted import question_of, remember, remembered
from tunesmith.planner.hardware import Hardware, this_machine
from tunesmith.planner.memory import predict_memory
from tunesmith.planner.plan import Plan, fits, make_plan, plan_from_json
from tunesmith.planner.price import with_own_price
from tunesmith.planner.shape import ModelShape, shape_of_config
from tunesmith.planner.strategy import choosing
from tunesmith.planner.trained import Counted
from tunesmith.recipe.resolved import Resolved
from tunesmith.runs.atomic import read_json, write_json
from tunesmith.runs.layout import RunFolder

_GIB = 2**30


def resolve_as_planned(prepared: Prepared, teller: Teller) -> Resolved:
    """The values of a recipe, with an open strategy as a new run on this machine would choose it.

    Nothing is refused or changed because of memory, and where this machine has too few devices the strategy is that of
    the rule of thumb: what is only asked about may be meant for another one.
    """
    resolved = resolve_run(prepared)
    shape = _shape(prepared, teller) if prepared.recipe.strategy == "auto" and resolved.strategy != "single" else None
    if shape is None:
        return resolved
    try:
        return _change(prepared, resolved, shape, _counted(prepared, resolved, shape))(()) or resolved
    except ResourceError:
        return resolved


def plan_run(folder: RunFolder, prepared: Prepared, resolved: Resolved, teller: Teller, *, is_new: bool) -> Resolved:
    """Plan a run on this machine, and see to it that it fits; the plan lies in the run folder.

    A run that earlier attempts began is planned and never refused or changed: it may have trained well already.

    Returns:
        The values as they are, but for ``strategy: auto``, which is the first that fits; with activations computed
        again, in as few layers as that takes, where the recipe leaves that open and needs it, as `tunesmith plan`
        foretells; or with the cheapest change that fits where it says ``fit: auto``.

    Raises:
        ResourceError: ``resource.plan``: it does not fit, with up to three changes that would make it fit.
        UsageError: ``usage.price_file``: the file that names this machine's price holds none.
    """
    shape = _shape(prepared, teller)
    if shape is None:
        return resolved
    counted = _counted(prepared, resolved, shape)
    hardware = _hardware(prepared)
    before = resolved
    if is_new:
        resolved = _change(prepared, resolved, shape, counted)(()) or resolved
    plan = _plan(shape, prepared, resolved, hardware, counted)
    if is_new and not plan.fits:
        resolved = _fitted(prepared, resolved, shape, teller, counted)
    if resolved.activation_checkpointing is True and before.activation_checkpointing is not True:
        resolved = _in_fewest_layers(prepared, resolved, shape, counted, more_than=before.activation_checkpointing)
    if resolved is not before:
        plan = _plan(shape, prepared, resolved, hardware, counted)
    if not plan.fits:
        teller.warn([f"the plan says that memory is not enough: {_shortage(plan, hardware)}"], "resource.plan")
    write_json(folder.plan, plan.to_json())
    minutes = plan.time.total_seconds / 60
    teller.state("planned", f"about {plan.memory.peak / _GIB:.1f} GiB at most, {minutes:.0f} min in all")
    teller.events.emit("artifact", kind="plan", path=folder.plan.name)
    return resolved


def _fitted(
    prepared: Prepared, resolved: Resolved, shape: ModelShape, teller: Teller, counted: Counted | None
) -> Resolved:
    """Values that fit, as far as the recipe allows; or, with ``fit: try``, as they are."""
    hardware, fit = _hardware(prepared), prepared.recipe.fit
    plan = _plan(shape, prepared, resolved, hardware, counted)
    change = _change(prepared, resolved, shape, counted)
    new_tokens = len(prepared.new_token_ids)
    changes = cheapest_fits(shape, data_facts(prepared), hardware, change, new_tokens=new_tokens, counted=counted)
    for way in changes if fit == "auto" else ():
        changed = change(way.settings)
        if changed is not None:
            teller.warn([f"{', '.join(way.settings)}, since memory is not enough otherwise"], "resource.fit")
            return changed
    if fit == "try":
        return resolved
    raise _refusal(plan, hardware, changes)


def _in_fewest_layers(
    prepared: Prepared, resolved: Resolved, shape: ModelShape, counted: Counted | None, *, more_than: int
) -> Resolved:
    """Activations again in the fewest layers with which the plan fits; in all of them where the recipe says so."""
    key = "train.activation_checkpointing"
    if prepared.recipe.train.activation_checkpointing != "auto":
        return resolved
    data, hardware, new_tokens = data_facts(prepared), _hardware(prepared), len(prepared.new_token_ids)

    def suffices(layers: int) -> bool:
        one = replace(resolved, activation_checkpointing=layers)
        return fits(predict_memory(shape, one, data, hardware, counted=counted, new_tokens=new_tokens), hardware)

    # What the layers keep falls with every layer that computes it again.
    layers = bisect_left(range(shape.layers), True, lo=more_than + 1, key=suffices)
    if layers >= shape.layers:
        return resolved
    reason = f"{resolved.reasons[key]}; {layers} of {shape.layers} layers are enough"
    return replace(resolved, activation_checkpointing=layers, reasons={**resolved.reasons, key: reason})


def plan_and_truth(
    folder: RunFolder, prepared: Prepared, result: TrainResult, clock: RunClock
) -> list[dict[str, Any]] | None:
    """What was predicted and what was measured, for the report; None where there is no plan that can be read."""
    plan = _read_plan(folder)
    if plan is None:
        return None
    rows = [
        ("peak_memory_bytes", plan.memory.peak, _peak(prepared, result)),
        ("steps", plan.time.steps, result.steps),
        ("seconds_a_step", _between_steps(plan), result.seconds / max(1, result.steps)),
        ("training_seconds", plan.time.training_seconds, result.seconds),
        ("total_seconds", plan.time.total_seconds, clock.elapsed_seconds()),
        ("trained_parameters", plan.memory.trained_parameters, None),
    ]
    return [{"what": what, "predicted": predicted, "measured": measured} for what, predicted, measured in rows]


def learn_from(folder: RunFolder, prepared: Prepared, result: TrainResult, *, attempts: int) -> None:
    """Let this machine's next plans know what this run took, where one attempt made it and it has steps enough."""
    plan = _read_plan(folder)
    if plan is None or attempts > 1 or result.steps < LEAST_STEPS:
        return
    hardware = this_machine(prepared.host)
    if plan.hardware != hardware.id:
        return
    then = hardware.model_copy(update={"activation_scale": plan.activation_scale, "time_scale": plan.time_scale})
    # The plan's own seconds of a step, as many times longer as a step and what comes between two took.
    step_seconds = plan.time.step_seconds * (result.seconds / result.steps) / _between_steps(plan)
    learn(then, plan.memory, plan.time, peak_bytes=_peak(prepared, result), step_seconds=step_seconds)


def _read_plan(folder: RunFolder) -> Plan | None:
    try:
        return plan_from_json(read_json(folder.plan)) if folder.plan.exists() else None
    except (UsageError, ValueError, OSError):
        return None


def _between_steps(plan: Plan) -> float:
    """Seconds of a step with what comes between two, as planned."""
    return plan.time.training_seconds / max(1, plan.time.steps)


def _peak(prepared: Prepared, result: TrainResult) -> int:
    """The most that a process held; on a GPU with what driver and libraries take, which torch does not count."""
    most = max([result.peak_memory_bytes, *result.rank_memory_bytes])
    return most + (_hardware(prepared).framework if prepared.host.device == "cuda" else 0)


def _hardware(prepared: Prepared) -> Hardware:
    return apply(with_own_price(this_machine(prepared.host)), read_calibration())


def _shape(prepared: Prepared, teller: Teller) -> ModelShape | None:
    try:
        return shape_of_config(read_json(prepared.model.folder / "config.json"), prepared.recipe.model)
    except ModelError as error:
        teller.warn([f"this model cannot be planned for, so nobody knows whether it fits: {error.message}"], error.code)
        return None


def _counted(prepared: Prepared, resolved: Resolved, shape: ModelShape) -> Counted | None:
    """What the technique trains where no formula knows; None where one does."""
    config = read_json(prepared.model.folder / "config.json")
    question = question_of(shape, config, resolved, data_facts(prepared))
    if question is None:
        return None
    found = remembered(question)
    if found is None:
        found = count_trained(question)
        remember(question, found)
    return found


def _plan(
    shape: ModelShape, prepared: Prepared, resolved: Resolved, hardware: Hardware, counted: Counted | None
) -> Plan:
    new_tokens = len(prepared.new_token_ids)
    return make_plan(shape, resolved, data_facts(prepared), hardware, counted=counted, new_tokens=new_tokens)


def _change(prepared: Prepared, resolved: Resolved, shape: ModelShape, counted: Counted | None) -> Change:
    """How the recipe changes, with an open strategy chosen by the plan."""

    def change(settings: Settings) -> Resolved | None:
        return _changed(prepared, resolved, settings)

    data, hardware, new_tokens = data_facts(prepared), _hardware(prepared), len(prepared.new_token_ids)
    return choosing(prepared.recipe, change, shape, data, hardware, new_tokens=new_tokens, counted=counted)


def _changed(prepared: Prepared, resolved: Resolved, settings: Settings) -> Resolved | None:
    """The recipe resolved anew with some settings; None where they do not go together, or need what is not here."""
    if not settings:
        return resolved
    try:
        changed = replace(prepared, recipe=changed_recipe(prepared.recipe, resolved, settings))
        found = resolve_run(changed)
        require_shareable(changed, found)
    except (RecipeError, UsageError):
        return None
    needed = {"qlora": "bitsandbytes"}.get(found.technique.name)
    if needed is not None and find_spec(needed) is None:
        return None
    keys = [setting.partition("=")[0] for setting in settings]
    return replace(found, reasons={**found.reasons, **dict.fromkeys(keys, "fit: auto: memory is not enough otherwise")})


def _refusal(plan: Plan, hardware: Hardware, changes: list[Alternative]) -> ResourceError:
    ways = "; ".join(f"{' '.join(one.settings)} ({one.peak_bytes / _GIB:.1f} GiB, {one.time_words})" for one in changes)
    return ResourceError(
        "by the plan this run does not fit into memory",
        code="resource.plan",
        place="fit",
        value=_shortage(plan, hardware),
        hint=(f"cheapest changes that fit: {ways}" if ways else "no change that was looked at makes it fit")
        + "; fit=try trains all the same",
    )


def _shortage(plan: Plan, hardware: Hardware) -> str:
    memory, host = plan.memory, hardware.host_memory_bytes or 0
    told = []
    if memory.device_headroom(hardware) < 0:
        there = hardware.device_memory_bytes or host
        needed = memory.peak if hardware.device_memory_bytes else memory.host
        told.append(f"{needed / _GIB:.1f} GiB are needed, {there / _GIB:.1f} GiB are there")
    if (memory.host_headroom(hardware) or 0) < 0:
        told.append(f"{memory.offloaded / _GIB:.1f} GiB are offloaded, the host has {host / _GIB:.1f} GiB")
    return f"{'; '.join(told)}, of which most can be used"
