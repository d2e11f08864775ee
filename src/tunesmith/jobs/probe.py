"""A few steps of a recipe on this machine, so that plans know how fast and how large they are here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tunesmith.jobs.control import start
from tunesmith.jobs.create import create_run, findable_model
from tunesmith.jobs.follow import follow_worker
from tunesmith.jobs.stages import scratch_folder
from tunesmith.runs.atomic import read_json
from tunesmith.runs.events import Event

if TYPE_CHECKING:
    from tunesmith.recipe.resolved import Resolved
    from tunesmith.recipe.schema import Recipe

# The first step finds caches cold, and calibration wants a few (tunesmith.planner.calibration.LEAST_STEPS).
STEPS = 6
_LITTLE_MEASURING = (
    "evaluate.rows=4",
    "evaluate.few_shot=0",
    "evaluate.samples=0",
    "evaluate.learning_curve=false",
    "evaluate.probe=false",
    "evaluate.multiple_choice=null",
    "train.validate_every_steps=1000000",
    "train.patience=null",
)
# What a training does beside training: with other machines, which a probe would wait for, and after it.
_HERE_ALONE = ("export=[]", "executor=local", "train.nodes=1")


def probe(recipe: Recipe, resolved: Resolved, on_event: Callable[[Event], None]) -> int:
    """Train a few steps as the recipe would, in a folder that goes again; the calibration learns from it as from a run.

    Before it trains, the worker makes the plan of it that every run has: what does not fit is refused there, or tried
    with the change that ``fit: auto`` makes, or tried all the same with ``fit: try``.

    Args:
        recipe: What is to be planned.
        resolved: Its values, of which the size of a step is kept, whatever the probe's own length makes of it.
        on_event: Gets every event of the worker.

    Returns:
        How many steps that were: fewer than STEPS where so large steps divide the rows badly.

    Raises:
        TunesmithError: The worker's error; ``resource.plan`` where the plan does not fit.
    """
    with scratch_folder() as folder:
        run = create_run(probe_recipe(recipe, resolved), folder, "probe")
        worker = start(run)
        try:
            for event in follow_worker(worker):
                on_event(event)
        finally:
            worker.terminate()
        return int(read_json(run.report_json)["cost"]["steps"])


def probe_recipe(recipe: Recipe, resolved: Resolved) -> Recipe:
    """The recipe of the few steps, on this machine alone whatever it is planned for."""
    from tunesmith.recipe.load import apply_overrides, parse_recipe

    settings = [
        *_LITTLE_MEASURING,
        *_HERE_ALONE,
        f"train.tokens_per_step={resolved.tokens_per_step}",
        f"train.budget={STEPS * resolved.tokens_per_step} tokens",
        "train.epochs=auto",
        f"model={findable_model(recipe.model)}",
    ]
    if resolved.max_new_tokens:
        # Rows without answers refuse it.
        settings.append("evaluate.max_new_tokens=4")
    if recipe.train.nodes > 1 and recipe.train.devices == 1:
        # Nothing is left to share.
        settings += ["strategy=auto", "train.offload=false"]
    return parse_recipe(apply_overrides(recipe.model_dump(mode="json", exclude_unset=True), settings), "probe")
