"""Propose a recipe: of the techniques that fit, the one that measurements and the plan speak for.

    advice = advise(recipe, runs_folder, hardware, "quality", matrix, audit)
    advice.text             # a recipe file, with the reasons as comments

What fits and how long it takes comes from the plan; how well a technique serves a task comes from a matrix
(`tunesmith matrix`), the one that ships with Tunesmith unless another one is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.errors import ResourceError, UsageError
from tunesmith.jobs.planning import Scene, scene_of
from tunesmith.matrix.cell import Gain, Matrix, read_matrix
from tunesmith.matrix.plan import Column, Layout, load_layout
from tunesmith.matrix.rules import decided_text, gain_of_scenario, tells_apart
from tunesmith.planner.alternatives import Alternative, cheapest_fits, trained_tokens_of, way_of
from tunesmith.planner.changes import Settings, changed_recipe
from tunesmith.planner.hardware import THIS_MACHINE
from tunesmith.planner.memory import USABLE
from tunesmith.planner.price import KEYS, VARIABLE
from tunesmith.recipe.load import dump_recipe

if TYPE_CHECKING:
    from tunesmith.jobs.counting import Count
    from tunesmith.recipe.schema import Recipe

Wish = Literal["quality", "memory", "time", "cost"]

_GIB = 2**30
# What the page's rows are about, by task.
_ROWS: Mapping[str, str] = {
    "text": "adapt",
    "classification": "classify",
    "ner": "classify",
    "translation": "classify",
    "extraction": "classify",
    "qa": "answer",
    "math": "answer",
    "text_to_sql": "answer",
    "function_calling": "answer",
    "chat": "chat",
    "preference": "chat",
    "creative": "create",
}
_WISHES: Mapping[Wish, str] = {
    "quality": "the best answers",
    "memory": "the least memory",
    "time": "the least time",
    "cost": "the least cost",
}


@dataclass(frozen=True)
class Candidate:
    """A technique, what has to change for it to fit, what it would take, and what was measured for such a task."""

    column: str
    title: str
    settings: Settings
    way: Alternative
    price: float | None
    gain: Gain | None


@dataclass(frozen=True)
class Advice:
    """The chosen recipe with its reasons, the candidates that fit, best first, and those that do not."""

    recipe: Recipe
    reasons: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    refused: tuple[str, ...]

    @property
    def text(self) -> str:
        """A recipe file."""
        head = ["Proposed by `tunesmith advise`; change what you like.", *(f"- {reason}" for reason in self.reasons)]
        # Names come from files of others; whatever is in them stays one comment.
        return "".join(f"# {' '.join(line.split())}\n" for line in head) + dump_recipe(self.recipe)


def measured_matrix() -> Matrix | None:
    """The matrix that ships with Tunesmith; None where this version has none."""
    path = Path(str(resources.files("tunesmith.matrix"))) / "data" / "measured.json"
    return read_matrix(path) if path.is_file() else None


def advise(
    recipe: Recipe,
    runs_folder: Path,
    audit: Callable[[], Mapping[str, Any]],
    *,
    count: Count | None = None,
    hardware: str | None = None,
    wish: Wish = "quality",
    matrix: Matrix | None = None,
) -> Advice:
    """Propose a recipe for a model and data.

    Args:
        recipe: Model, data, and whatever else is given already; its technique is chosen here.
        runs_folder: Where a model that is a run is looked for.
        audit: As for :func:`tunesmith.jobs.planning.known_facts`.
        count: As for :func:`tunesmith.jobs.planning.scene_of`.
        hardware: What it is to run on, by id or file; this machine if None.
        wish: What matters most.
        matrix: Measurements; None: the plan alone decides.

    Raises:
        UsageError: ``usage.prefer``: there is no such wish.
        ResourceError: ``resource.advice``: nothing fits there.
        TunesmithError: What :func:`tunesmith.jobs.planning.scene_of` raises.
    """
    if wish not in _WISHES:
        raise UsageError(
            "nothing that can matter most",
            code="usage.prefer",
            place="--prefer",
            value=wish,
            hint=f"one of {', '.join(_WISHES)}",
        )
    layout, scene = load_layout(), scene_of(recipe, runs_folder, hardware, audit, count)
    row = _ROWS.get(scene.known.data.task)
    measured = None if matrix is None else _scenario_like(layout, matrix, row, scene.known.data.task)
    found, refused = [], []
    # Of columns of several devices the technique is another's: how work is shared is chosen by itself.
    columns = [column for column in layout.columns if len(column.settings) == 1]
    own = f"technique={scene.resolved.technique.name}"
    if "technique" in recipe.model_fields_set and not any(column.settings == (own,) for column in columns):
        columns.append(Column(id=scene.resolved.technique.name, title=scene.resolved.technique.name, settings=(own,)))
    for column in columns:
        gain = None if matrix is None or measured is None else gain_of_scenario(matrix, measured, column.id)
        candidate = _candidate(scene, column, gain)
        if isinstance(candidate, str):
            refused.append(candidate)
        else:
            found.append(candidate)
    if not found:
        raise _nothing_fits(scene, refused)
    ordered = _in_order(found, wish)
    settings = (*ordered[0].settings, f"task={scene.known.data.task}")
    proposed = changed_recipe(scene.recipe, scene.resolved, settings, keep_objective=False)
    title = next((one.title for one in layout.rows if one.id == row), "")
    source = "" if matrix is None else matrix.model
    reasons = (_about(scene, wish), *_without_price(scene, wish), *_reasons(scene, ordered, title, source))
    return Advice(proposed, reasons, tuple(ordered), tuple(refused))


def _candidate(scene: Scene, column: Column, gain: Gain | None) -> Candidate | str:
    """The technique as it fits, with the cheapest change where it does not by itself; or why it cannot be."""
    shape, data, place = scene.known.shape, scene.known.data, scene.hardware
    title, settings = column.title, column.settings
    needed = next((scene.lacked[setting] for setting in settings if setting in scene.lacked), None)
    if needed is not None:
        return f"{title} {needed}"
    # Settings of other techniques would not be those of this one.
    wanted = () if settings == (f"technique={scene.resolved.technique.name}",) else settings
    numbers: dict[str, Any] = {"counted": scene.counted, "new_tokens": scene.new_tokens}
    way = way_of(shape, data, place, scene.change, wanted, **numbers)
    if way is None:
        return f"{title} does not go with the rest of the recipe"
    if not way.fits:
        changes = cheapest_fits(
            shape,
            data,
            place,
            lambda more: scene.change((*wanted, *more)),
            **numbers,
            most=1,
            techniques=False,
            tokens=trained_tokens_of(shape, data, place, scene.resolved, **numbers),
        )
        if not changes:
            return f"{title} does not fit: {way.peak_bytes / _GIB:.1f} GiB"
        way = changes[0]
        wanted = (*wanted, *way.settings)
    return Candidate(column.id, title, wanted, way, way.price, gain)


def _in_order(found: Sequence[Candidate], wish: Wish) -> list[Candidate]:
    """Best first: proven gains, undecided ones, what was not measured, and what was measured to make things worse.

    Where gains are not told apart, less time decides. Time and cost are those of equal work.
    """
    if wish == "memory":
        return sorted(found, key=lambda one: (_is_worse(one), one.way.peak_bytes))
    if wish == "cost":
        # Without a price all cost by the hour, whatever that is; the reasons say so.
        return sorted(found, key=lambda one: (_is_worse(one), one.way.equal_price or 0.0, one.way.equal_seconds))
    if wish == "time":
        return sorted(found, key=lambda one: (_is_worse(one), one.way.equal_seconds))
    gains = [one.gain for one in found if one.gain is not None and not one.gain.is_worse]
    # An undecided gain may be none at all, so it is not held against a proven one, however large it is.
    best = {
        proven: max((one for one in gains if one.is_better is proven), key=lambda one: one.value, default=None)
        for proven in (True, False)
    }

    def rank(one: Candidate) -> tuple[int, int, float, float]:
        if one.gain is None:
            # Nothing speaks for it; LoRA is what most people know to work.
            return 2, 0, float(one.column != "lora"), one.way.equal_seconds
        own = best[one.gain.is_better]
        if own is None or one.gain.is_worse:
            return 3, 0, 0.0, one.way.equal_seconds
        kind = 0 if one.gain.is_better else 1
        if not tells_apart(one.gain, own):
            return kind, 0, 0.0, one.way.equal_seconds
        return kind, 1, -one.gain.value, one.way.equal_seconds

    return sorted(found, key=rank)


def _is_worse(one: Candidate) -> bool:
    return one.gain is not None and one.gain.is_worse


def _scenario_like(layout: Layout, matrix: Matrix, row: str | None, task: str) -> str | None:
    """The measured scenario that is most like a task: of the same task, else of the same row of the page."""
    there = {one.cell.scenario for one in matrix.results if one.outcome and one.cell.kind == "quality"}
    alike = [one for one in layout.scenarios if one.row == row and one.id in there]
    same = [one for one in alike if f"task={task}" in one.settings]
    return next((one.id for one in (*same, *alike)), None)


def _about(scene: Scene, wish: Wish) -> str:
    data = scene.known.data
    rows = f"{data.rows:,} rows of {data.mean_row_tokens:.0f} tokens"
    return f"task {data.task}, {rows}, on {scene.hardware.name}; wanted: {_WISHES[wish]}"


def _without_price(scene: Scene, wish: Wish) -> Iterator[str]:
    if wish == "cost" and scene.hardware.price_per_hour is None:
        here = scene.hardware.id == THIS_MACHINE
        file, named_by = ("file", VARIABLE) if here else ("hardware file", "--hardware FILE")
        yield (
            f"no price is configured for {scene.hardware.name}, so the least time stands for the least cost: a "
            f"{file} with {', '.join(KEYS[:-1])} and {KEYS[-1]} gives one ({named_by})"
        )


def _reasons(scene: Scene, ordered: Sequence[Candidate], title: str, source: str) -> Iterator[str]:
    """Why the first one; ``title`` is the row of the page that such tasks belong to, ``source`` the measured model."""
    chosen, place = ordered[0], scene.hardware
    cost = "" if chosen.price is None else f", {chosen.price:.2f} {place.currency}"
    yield (f"{chosen.title}: by the plan {chosen.way.peak_bytes / _GIB:.1f} GiB and {chosen.way.time_words}{cost}")
    more = [setting for setting in chosen.settings if not setting.startswith("technique=")]
    again = any(setting.startswith("train.activation_checkpointing=") for setting in more)
    if more:
        yield f"{', '.join(more)}: without it memory is not enough"
    if chosen.way.activation_checkpointing and scene.recipe.train.activation_checkpointing == "auto" and not again:
        yield "`train` computes activations again, since memory is not enough otherwise"
    if chosen.gain is not None:
        yield f'measured for "{title}" on {source}: {decided_text(chosen.gain)} over the untuned model'
    elif title:
        yield f'nothing was measured of it for "{title}"; `tunesmith matrix` does'
    for other in ordered[1:]:
        yield f"instead of {other.title}: {_against(chosen, other)}"
    if scene.known.guessed:
        yield "tokens are an estimate: the model's tokenizer is not here"


def _against(chosen: Candidate, other: Candidate) -> str:
    told = [f"{other.way.peak_bytes / _GIB:.1f} GiB, {other.way.time_words}"]
    if chosen.gain is not None and other.gain is not None:
        same = not tells_apart(chosen.gain, other.gain)
        told.append(f"gain {decided_text(other.gain)}" + (", not told apart" if same else ""))
    return ", ".join(told)


def _nothing_fits(scene: Scene, refused: Sequence[str]) -> ResourceError:
    there = scene.hardware.device_memory_bytes or scene.hardware.host_memory_bytes or 0
    usable = there * USABLE[scene.hardware.device]
    return ResourceError(
        "no technique of this model fits there",
        code="resource.advice",
        place=scene.hardware.name,
        value=f"{usable / _GIB:.1f} of {there / _GIB:.1f} GiB can be used; " + "; ".join(refused),
        hint="take a smaller model (`tunesmith models`), more devices, or shorter rows (train.max_length)",
    )
