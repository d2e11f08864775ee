"""What a plan is made from: the rows in tokens and the model in numbers.

Both come from the worker's audit, which has a tokenizer, and are remembered by what decides them; a plan of the same
data is there at once. Where the model is not on this machine, tokens are guessed from letters, and the plan says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from tunesmith.catalog.cache import cache_folder, prepared_folder
from tunesmith.catalog.resolve import ModelReference, resolve_model
from tunesmith.errors import OutputError, UsageError
from tunesmith.jobs.create import data_sources
from tunesmith.recipe.facts import DataFacts, HostFacts, ModelFacts
from tunesmith.runs.atomic import read_json, write_json

if TYPE_CHECKING:
    from tunesmith.formats.examples import Conversation, Document
    from tunesmith.planner.alternatives import Alternative
    from tunesmith.planner.hardware import Hardware
    from tunesmith.planner.plan import Plan
    from tunesmith.planner.shape import ModelShape
    from tunesmith.recipe.resolved import Resolved
    from tunesmith.recipe.schema import Recipe

_MACHINE = "this-machine.json"
_SAMPLE_ROWS = 256
# What a template puts around each turn.
_TOKENS_OF_TURN = 5


@dataclass(frozen=True)
class Known:
    """What is known of a recipe's rows and model. ``host`` is this machine, None where it was never looked at.

    ``guessed`` says that tokens were guessed from letters.
    """

    data: DataFacts
    model: ModelFacts
    shape: ModelShape
    host: HostFacts | None
    guessed: bool = False


def known_facts(recipe: Recipe, runs_folder: Path, audit: Callable[[], Mapping[str, Any]]) -> Known:
    """What is known of a recipe's rows and model.

    Args:
        recipe: What is to be planned.
        runs_folder: Where a model that is a run is looked for.
        audit: Runs the worker's audit and gives the content of its facts.json; called where nothing is remembered and
            the model is here, or is none of the catalog.

    Raises:
        TunesmithError: Whatever is wrong with model or data.
    """
    reference = resolve_model(recipe.model, runs_folder)
    path = cache_folder() / "plans" / f"{_key(recipe)}.json"
    facts = _read(path)
    if facts is None:
        if prepared_folder(reference) is None and reference.entry is not None:
            return _guess(recipe, reference)
        facts = dict(audit())
        _keep(path, facts)
        _keep(cache_folder() / _MACHINE, facts["host"])
    return _from_facts(recipe, reference, facts)


def this_machine() -> HostFacts | None:
    """This machine as a worker measured it last; None where none has."""
    found = _read(cache_folder() / _MACHINE)
    return None if found is None else HostFacts(**found)


def _from_facts(recipe: Recipe, reference: ModelReference, facts: Mapping[str, Any]) -> Known:
    from tunesmith.planner.shape import shape_of_config, shape_of_entry

    config = facts["config"]
    shape = shape_of_entry(reference.entry) if reference.entry else shape_of_config(config, recipe.model)
    data = {**facts["data"], "default_metrics": tuple(facts["data"]["default_metrics"])}
    return Known(DataFacts(**data), ModelFacts(**facts["model"]), shape, HostFacts(**facts["host"]))


def _guess(recipe: Recipe, reference: ModelReference) -> Known:
    """From letters: four of them are about one token of English."""
    from tunesmith.formats.inspect import inspect_source
    from tunesmith.formats.read import read_examples
    from tunesmith.planner.shape import shape_of_entry
    from tunesmith.tasks.prepare import prepare_task

    assert reference.entry is not None
    shape = shape_of_entry(reference.entry)
    columns = None if recipe.data.columns == "auto" else dict(recipe.data.columns)
    wanted = None if recipe.data.shape == "auto" else recipe.data.shape
    train = recipe.data.train if isinstance(recipe.data.train, str) else recipe.data.train[0].path
    inspection = inspect_source(train, columns=columns, shape=wanted)
    inspection.require_usable(recipe.data.on_bad_rows)
    rows = [example for _, example in read_examples(inspection, on_bad_rows=recipe.data.on_bad_rows)]
    task = prepare_task(recipe.task, inspection, list(islice(rows, _SAMPLE_ROWS)))
    lengths, learned = zip(*(_guessed_tokens(task.training(row)) for row in rows), strict=True)
    share = recipe.data.validation if isinstance(recipe.data.validation, float) else 0.0
    held_out = round(share * len(rows))
    data = DataFacts(
        task=task.name,
        shape=inspection.shape,
        rows=max(1, len(rows) - held_out),
        validation_rows=max(1, held_out),
        tokens=round(sum(lengths) * (1 - share)),
        trained_tokens=round(sum(learned) * (1 - share)),
        longest_row=max(lengths),
        labels=len(task.labels),
        default_metrics=task.metrics,
        answer_tokens=task.max_new_tokens,
    )
    model = ModelFacts(
        name=recipe.model,
        parameters=shape.parameters,
        context_length=shape.context_length,
        has_chat_template=True,
        model_type=shape.architecture,
        kind=shape.kind,
        hidden_size=shape.hidden_size,
        layers=shape.layers,
        vocabulary_size=shape.vocabulary_size,
    )
    return Known(data, model, shape, this_machine(), guessed=True)


def _guessed_tokens(row: Conversation | Document) -> tuple[int, int]:
    """Tokens of a row, and how many of them are learned."""
    from tunesmith.formats.examples import Document
    from tunesmith.tasks.answers import rough_tokens

    if isinstance(row, Document):
        tokens = max(1, rough_tokens(row.text))
        return tokens, tokens
    turns = [(message.role, rough_tokens(str(message.content or "")) + _TOKENS_OF_TURN) for message in row.messages]
    return sum(count for _, count in turns), sum(count for role, count in turns if role == "assistant")


def _key(recipe: Recipe) -> str:
    """What decides the tokens of a recipe's rows: files, model, and what the recipe says of rows."""
    wanted = recipe.model_dump(mode="json")
    deciding = {
        "version": version("tunesmith"),
        "model": wanted["model"],
        "data": wanted["data"],
        "task": wanted["task"],
        "objective": wanted["objective"],
        "train": {key: wanted["train"][key] for key in ("max_length", "seed")},
        "files": [_state(Path(source)) for source in data_sources(recipe)],
    }
    return hashlib.sha256(orjson.dumps(deciding, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def _state(source: Path) -> list[list[Any]]:
    """Name, size and time of each file; none for what lies on a hub."""
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    return [
        [str(file.resolve()), (state := file.stat()).st_size, state.st_mtime_ns] for file in files if file.is_file()
    ]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _keep(path: Path, content: Mapping[str, Any]) -> None:
    """Remember it where that is possible; a read-only cache only means to look again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dict(content))
    except (OSError, OutputError):
        return


@dataclass(frozen=True)
class Planned:
    """A plan, the values that it is about, the same in other ways, and what would make it fit."""

    plan: Plan
    resolved: Resolved
    hardware: Hardware
    others: list[Alternative]
    changes: list[Alternative]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "plan": self.plan.to_json(),
            "resolved": self.resolved.to_json(),
            "hardware": self.hardware.model_dump(mode="json"),
            "others": [asdict(one) for one in self.others],
            "changes": [asdict(one) for one in self.changes],
        }


def plan_recipe(
    recipe: Recipe, runs_folder: Path, hardware: str | None, audit: Callable[[], Mapping[str, Any]]
) -> Planned:
    """Plan a recipe on this machine, or on hardware by its id or file; ``audit`` as for :func:`known_facts`.

    Raises:
        UsageError: There is no such hardware, or this machine was never looked at and the model is not here.
        RecipeError: The combination cannot work.
        ModelError: The model's architecture is unknown.
    """
    from tunesmith.planner import calibration
    from tunesmith.planner.alternatives import alternatives, cheapest_fits
    from tunesmith.planner.hardware import load_hardware
    from tunesmith.planner.hardware import this_machine as machine_of
    from tunesmith.planner.plan import make_plan
    from tunesmith.recipe.refusal import Facts
    from tunesmith.recipe.refusals import check
    from tunesmith.recipe.resolve import resolve

    known = known_facts(recipe, runs_folder, audit)
    if hardware is None and known.host is None:
        raise UsageError(
            "this machine was not looked at yet",
            code="usage.hardware_unmeasured",
            hint="run `tunesmith doctor`, fetch a model, or name what to plan for with --hardware",
        )
    place = load_hardware(hardware) if hardware else machine_of(known.host or HostFacts(1, 1))
    place = calibration.apply(place, calibration.read_calibration())
    host = place.host_facts() if hardware else known.host or HostFacts(1, 1)
    check(recipe, Facts(known.data, known.model, host))
    resolved = resolve(recipe, known.data, known.model, host)
    new_tokens = len(recipe.data.new_tokens)
    plan = make_plan(known.shape, resolved, known.data, place, new_tokens=new_tokens, estimated_tokens=known.guessed)
    scene = (known.shape, resolved, known.data, place)
    return Planned(
        plan,
        resolved,
        place,
        alternatives(*scene, new_tokens=new_tokens),
        cheapest_fits(*scene, new_tokens=new_tokens),
    )
