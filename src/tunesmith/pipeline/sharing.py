"""How a run's training is shared out: what is checked before anything is measured, and what a later attempt changes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

import orjson

from tunesmith.errors import missing_extra
from tunesmith.evaluation.held_out import Item
from tunesmith.pipeline.meeting import RankJob, address_for
from tunesmith.pipeline.prepare import Prepared, resolve_run
from tunesmith.pipeline.ranks import require_devices
from tunesmith.pipeline.run import Run
from tunesmith.recipe.load import apply_overrides, parse_recipe, read_mapping
from tunesmith.recipe.resolved import Resolved
from tunesmith.recipe.strategies import CUT_MOMENTS, DEEPSPEED
from tunesmith.runs.atomic import read_json
from tunesmith.runs.layout import RunFolder

# What an attempt may share out in another way than the one before.
_SHARED = ("strategy", "train.devices", "train.nodes", "train.offload")


def resolve_anew(folder: RunFolder, prepared: Prepared, resolved: Resolved) -> Resolved:
    """The values of earlier attempts, with the work shared out as it was asked for when the run was resumed.

    Raises:
        RecipeError: It cannot be shared out so.
        ResourceError: This machine has fewer GPUs.
        UsageError: What it needs is not here.
    """
    if not folder.resume.exists():
        return resolved
    asked = read_json(folder.resume)
    technique = orjson.dumps(resolved.technique.model_dump(mode="json")).decode()
    settings = [f"{key}={value}" for key, value in asked.items() if key in _SHARED] + [f"technique={technique}"]
    mapping = apply_overrides(read_mapping(folder.recipe), settings)
    recipe = parse_recipe(mapping, "runs resume")
    if recipe.train.nodes == 1:
        recipe = parse_recipe(apply_overrides(mapping, ["train.address=auto"]), "runs resume")
    # auto may cut, where there is more than one device.
    cuts = (*CUT_MOMENTS, "auto") if recipe.train.devices * recipe.train.nodes > 1 else CUT_MOMENTS
    if recipe.strategy not in cuts:
        recipe = parse_recipe(apply_overrides(recipe.model_dump(mode="json"), ["train.offload=false"]), "runs resume")
    wanted = resolve_run(replace(prepared, recipe=recipe))
    require_shareable(replace(prepared, recipe=recipe), wanted)
    reasons = {**resolved.reasons, **{key: wanted.reasons[key] for key in _SHARED}}
    return replace(
        resolved,
        strategy=wanted.strategy,
        devices=wanted.devices,
        nodes=wanted.nodes,
        offload=wanted.offload,
        reasons=reasons,
    )


def require_shareable(prepared: Prepared, resolved: Resolved) -> None:
    """Refuse what could only be noticed when training begins, and everything was measured.

    Raises:
        ResourceError: This machine has fewer GPUs than are wanted of each.
        UsageError: DeepSpeed is not installed, or this machine has no address for the others.
    """
    if resolved.strategy in DEEPSPEED and find_spec("deepspeed") is None:
        raise missing_extra(
            "this strategy needs the package deepspeed", "deepspeed", place="strategy", value=resolved.strategy
        )
    require_devices(prepared.host.device, resolved.devices)
    address_for(resolved.nodes, prepared.recipe.train.address)


def shared_job(run: Run, watched: Sequence[Item]) -> RankJob:
    """What all ranks of the training agree on."""
    resolved = run.resolved
    return RankJob(
        resolved.devices,
        tuple(map(mark_of, watched)),
        resolved.strategy,
        resolved.offload,
        resolved.nodes,
        run.prepared.host.device,
        address=address_for(resolved.nodes, run.prepared.recipe.train.address),
    )


def mark_of(item: Item) -> str:
    """What tells an item from all others; places do not, for a long text has several items."""
    content = hashlib.sha256()
    for row in item:
        content.update(row.token_ids_T.tobytes() + row.trained_T.tobytes())
    return content.hexdigest()
