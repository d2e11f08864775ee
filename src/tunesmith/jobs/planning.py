"""What a plan is made from: the rows in tokens and the model in numbers.

Both come from the worker's audit, which has a tokenizer, and are remembered by what decides them; a plan of the same
data is there at once. Where the model is not on this machine, tokens are guessed from letters, and the plan says so; a
guess is remembered too, until the model is here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from tunesmith.catalog.cache import cache_folder, machine_file, prepared_folder
from tunesmith.catalog.resolve import ModelReference, resolve_model
from tunesmith.errors import OutputError, UsageError
from tunesmith.jobs.create import data_sources
from tunesmith.recipe.facts import DataFacts, HostFacts, ModelFacts
from tunesmith.runs.atomic import read_json, write_json

if TYPE_CHECKING:
    from tunesmith.formats.examples import Conversation, Document
    from tunesmith.jobs.counting import Count
    from tunesmith.planner.alternatives import Alternative
    from tunesmith.planner.changes import Change
    from tunesmith.planner.hardware import Hardware
    from tunesmith.planner.plan import Plan
    from tunesmith.planner.shape import ModelShape
    from tunesmith.planner.trained import Counted
    from tunesmith.recipe.resolved import Resolved
    from tunesmith.recipe.schema import Recipe

_FORMAT = 1
_SAMPLE_ROWS = 256
_HUB_SECONDS = 20.0
# Of English, by most tokenizers.
_LETTERS_PER_TOKEN = 4
# What decides how a model's tokenizer and template turn rows into tokens.
_MODEL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
    "adapter_config.json",
    "manifest.json",
)
# What a template puts around each turn.
_TOKENS_OF_TURN = 5


@dataclass(frozen=True)
class Known:
    """What is known of a recipe's rows and model. ``host`` is this machine, None where it was never looked at.

    ``guessed`` says that tokens were guessed from letters. ``config`` is the content of the model's config.json, or
    what stands for it; None where neither is known.
    """

    data: DataFacts
    model: ModelFacts
    shape: ModelShape
    host: HostFacts | None
    guessed: bool = False
    config: Mapping[str, Any] | None = None


def known_facts(recipe: Recipe, runs_folder: Path, audit: Callable[[], Mapping[str, Any]]) -> Known:
    """What is known of a recipe's rows and model.

    Args:
        recipe: What is to be planned.
        runs_folder: Where a model that is a run is looked for.
        audit: Runs the worker's audit and gives the content of its facts.json; called where nothing is remembered and
            the model is here.

    Raises:
        TunesmithError: Whatever is wrong with model or data.
    """
    reference = resolve_model(recipe.model, runs_folder)
    key = _key(recipe, reference)
    path = cache_folder() / "plans" / f"{key}.json"
    known = None if key is None else _remembered(recipe, reference, path)
    if known is not None:
        return known
    if prepared_folder(reference) is None and reference.kind in ("catalog", "hub"):
        has_template = reference.entry is None or reference.entry.chat_template is not False
        shape, config = _model_from_afar(reference)
        known = guess_facts(recipe, shape, has_chat_template=has_template, config=config)
        if key is not None:
            about = {"data": asdict(known.data), "model": asdict(known.model), "config": config}
            _keep(path, {"format": _FORMAT, "guessed": True, **about})
        return known
    facts = {"format": _FORMAT, **audit()}
    # A model that had to be fetched is another one now.
    key = _key(recipe, reference)
    if key is not None:
        _keep(cache_folder() / "plans" / f"{key}.json", facts)
    return _from_facts(recipe, reference, facts)


def _remembered(recipe: Recipe, reference: ModelReference, path: Path) -> Known | None:
    facts = _read(path)
    if facts is None or facts.get("format") != _FORMAT:
        return None
    try:
        return _from_facts(recipe, reference, facts)
    except (KeyError, TypeError, ValueError):
        # Another version wrote it, or something broke it: looking again is cheap.
        return None


def this_machine() -> HostFacts | None:
    """This machine as a worker measured it last; None where none has."""
    found = _read(machine_file())
    try:
        return None if found is None else HostFacts(**found)
    except (TypeError, ValueError):
        return None


def _from_facts(recipe: Recipe, reference: ModelReference, facts: Mapping[str, Any]) -> Known:
    from tunesmith.planner.shape import shape_of_config, shape_of_entry

    config = facts["config"]
    shape = shape_of_entry(reference.entry) if reference.entry else shape_of_config(config, recipe.model)
    data = {**facts["data"], "default_metrics": tuple(facts["data"]["default_metrics"])}
    return Known(
        DataFacts(**data), ModelFacts(**facts["model"]), shape, this_machine(), facts.get("guessed", False), config
    )


def _model_from_afar(reference: ModelReference) -> tuple[ModelShape, Mapping[str, Any]]:
    """The numbers of a model that is not here, and its config: the catalog's, or those of its config on the hub."""
    from tunesmith.planner.shape import config_of, shape_of_config, shape_of_entry

    if reference.entry is not None:
        shape = shape_of_entry(reference.entry)
        return shape, config_of(shape)
    from tunesmith.catalog.hub import fetch_config

    config = fetch_config(reference.name, _HUB_SECONDS)
    return shape_of_config(config, reference.name), config


def guess_facts(
    recipe: Recipe, shape: ModelShape, *, has_chat_template: bool = True, config: Mapping[str, Any] | None = None
) -> Known:
    """What is known without the model's tokenizer, from letters.

    The rows are those that the worker would read, cut where it would cut them.

    Args:
        recipe: Its data are files of this machine.
        shape: The model.
        has_chat_template: Whether it has one, as far as is known.
        config: The content of its config.json, or what stands for it, where that is known.

    Raises:
        TunesmithError: Whatever is wrong with the data.
    """
    from tunesmith.formats.inspect import inspect_source
    from tunesmith.formats.read import read_examples
    from tunesmith.recipe.resolve import longest_row_allowed
    from tunesmith.tasks.prepare import prepare_task

    columns = None if recipe.data.columns == "auto" else dict(recipe.data.columns)
    wanted = None if recipe.data.shape == "auto" else recipe.data.shape
    found = [inspect_source(source, columns=columns, shape=wanted) for source in data_sources(recipe)]
    for one in found:
        one.require_usable(recipe.data.on_bad_rows)
    own_validation = isinstance(recipe.data.validation, str)
    sides = (found[:-1], found[-1:]) if own_validation else (found, [])
    policy = recipe.data.on_bad_rows
    train = (row for one in sides[0] for _, row in read_examples(one, on_bad_rows=policy))
    sample = list(islice(train, _SAMPLE_ROWS))
    task = prepare_task(recipe.task, found[0], sample)
    longest = longest_row_allowed(recipe, task=task.name, context_length=shape.context_length)
    sums = _Sums()
    for row in chain(sample, train):
        for tokens, learned in _guessed_tokens(task.training(row), longest):
            sums.add(tokens, learned)
    held_out = sum(one.good_rows for one in sides[1])
    share = recipe.data.validation if isinstance(recipe.data.validation, float) else 0.0
    data = DataFacts(
        task=task.name,
        shape=found[0].shape,
        rows=max(1, round(sums.rows * (1 - share))),
        validation_rows=max(1, held_out or round(sums.rows * share)),
        tokens=round(sums.tokens * (1 - share)),
        trained_tokens=round(sums.learned * (1 - share)),
        longest_row=sums.longest,
        labels=len(task.labels),
        default_metrics=task.metrics,
        answer_tokens=task.tokens_to_generate(lambda text: len(text) // _LETTERS_PER_TOKEN + 1),
    )
    facts = shape.facts(has_chat_template=has_chat_template)
    return Known(data, facts, shape, this_machine(), guessed=True, config=config)


@dataclass
class _Sums:
    """Over rows that are looked at one by one: data may be larger than memory."""

    rows: int = 0
    tokens: int = 0
    learned: int = 0
    longest: int = 0

    def add(self, tokens: int, learned: int) -> None:
        self.rows += 1
        self.tokens += tokens
        self.learned += learned
        self.longest = max(self.longest, tokens)


def _guessed_tokens(row: Conversation | Document, longest: int | None) -> Iterator[tuple[int, int]]:
    """Tokens of a row, or of its pieces, and how many of them are learned."""
    from tunesmith.formats.examples import Document

    if isinstance(row, Document):
        tokens = len(row.text) // _LETTERS_PER_TOKEN + 1
        piece = longest or tokens
        for start in range(0, tokens, piece):
            size = min(piece, tokens - start)
            yield size, size
        return
    turns = [
        (message.role, len(str(message.content or "")) // _LETTERS_PER_TOKEN + _TOKENS_OF_TURN)
        for message in row.messages
    ]
    learned = sum(count for role, count in turns if role == "assistant")
    yield min(longest or 2**62, sum(count for _, count in turns)), learned


def _since(reference: ModelReference) -> str | None:
    """When a registered version was begun: another registry may have one of the same address."""
    return None if reference.registered is None else reference.registered.version.claim.since


def _key(recipe: Recipe, reference: ModelReference) -> str | None:
    """What decides the tokens of a recipe's rows: files, model, and what the recipe says of rows.

    None where rows lie on a hub, which may change them.
    """
    wanted = recipe.model_dump(mode="json")
    sources = [Path(source).expanduser() for source in data_sources(recipe)]
    if not all(source.exists() for source in sources):
        return None
    folder = prepared_folder(reference)
    model = [] if folder is None else [folder / name for name in _MODEL_FILES]
    deciding = {
        "version": version("tunesmith"),
        "model": [reference.kind, reference.name, None if folder is None else str(folder.resolve()), _since(reference)],
        "data": wanted["data"],
        "task": wanted["task"],
        "objective": wanted["objective"],
        "train": {key: wanted["train"][key] for key in ("max_length", "seed")},
        "files": [_state(path) for path in (*sources, *model)],
    }
    return hashlib.sha256(orjson.dumps(deciding, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def _state(source: Path) -> list[list[Any]]:
    """Name, size and time of each file; nothing for one that is not there."""
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
    """A plan, the values that it is about, the same in other ways, and what would make it fit.

    ``left_out`` says which ways were not looked at since they need libraries that are not here.
    """

    plan: Plan
    resolved: Resolved
    hardware: Hardware
    others: list[Alternative]
    changes: list[Alternative]
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "plan": self.plan.to_json(),
            "resolved": self.resolved.to_json(),
            "hardware": self.hardware.model_dump(mode="json"),
            "others": [asdict(one) for one in self.others],
            "changes": [asdict(one) for one in self.changes],
            "left_out": list(self.left_out),
        }


@dataclass(frozen=True)
class Scene:
    """A recipe with all that a plan of it is made from; ``change`` gives its values with other settings.

    ``recipe`` is what was asked for, on all devices of the named hardware where it does not say how many. ``lacked``
    are the settings that need libraries which are not here, with the reason; ``change`` knows none of them.
    """

    recipe: Recipe
    known: Known
    resolved: Resolved
    hardware: Hardware
    change: Change
    new_tokens: int
    counted: Counted | None
    lacked: Mapping[str, str]


def scene_of(
    recipe: Recipe,
    runs_folder: Path,
    hardware: str | None,
    audit: Callable[[], Mapping[str, Any]],
    count: Count | None = None,
) -> Scene:
    """Look at a recipe's rows, model and machine.

    Args:
        recipe: What is to be planned.
        runs_folder: Where a model that is a run is looked for.
        hardware: What it is to run on, by id or file; this machine if None or ``this-machine``.
        audit: As for :func:`known_facts`.
        count: Counts what a technique without a formula trains; called where nothing is remembered. By a worker that
            nobody hears if None.

    Raises:
        UsageError: There is no such hardware, this machine was never looked at and the model is not here, or the price
            of this machine cannot be read.
        RecipeError: The combination cannot work.
        ModelError: The model's architecture is unknown, or it has not the layers that the technique names.
    """
    from tunesmith.jobs.counting import count_quietly, counted
    from tunesmith.jobs.installed import lacking, without
    from tunesmith.planner import calibration
    from tunesmith.planner.changes import change_of
    from tunesmith.planner.counted import question_of
    from tunesmith.planner.hardware import THIS_MACHINE, load_hardware
    from tunesmith.planner.strategy import choosing
    from tunesmith.recipe.refusal import Facts
    from tunesmith.recipe.refusals import check
    from tunesmith.recipe.resolve import resolve
    from tunesmith.recipe.strategies import BY_COST

    # A name that means nothing is told before rows are counted.
    named = load_hardware(hardware) if hardware and hardware != THIS_MACHINE else None
    if named is not None:
        recipe = _on_all_devices(recipe, named)
    known = known_facts(recipe, runs_folder, audit)
    place = calibration.apply(named or _own_machine(known.host), calibration.read_calibration())
    host = named.host_facts() if named else known.host or HostFacts(1, 1)
    facts = Facts(known.data, known.model, host)
    check(recipe, facts)
    resolved, new_tokens = resolve(recipe, known.data, known.model, host), len(recipe.data.new_tokens)
    change = change_of(recipe, resolved, facts)
    found = counted(question_of(known.shape, known.config, resolved, known.data), count or count_quietly)
    # What another machine has installed is not known here.
    lacked = lacking() if named is None and recipe.executor.name == "local" else {}
    missing = [name for name in BY_COST if f"strategy={name}" in lacked]
    change = choosing(
        recipe, change, known.shape, known.data, place, new_tokens=new_tokens, counted=found, missing=missing
    )
    change = without(change, lacked)
    return Scene(recipe, known, change(()) or resolved, place, change, new_tokens, found, lacked)


def _own_machine(host: HostFacts | None) -> Hardware:
    """This machine as it was measured, with its user's price."""
    from tunesmith.planner.hardware import this_machine as machine_of
    from tunesmith.planner.price import with_own_price

    if host is None:
        raise UsageError(
            "this machine was not looked at yet",
            code="usage.hardware_unmeasured",
            hint="plan or train with a model that is here, or name what to plan for with --hardware",
        )
    return with_own_price(machine_of(host))


def _on_all_devices(recipe: Recipe, place: Hardware) -> Recipe:
    """The recipe on as many GPUs as the machine has, where it does not say how many.

    Raises:
        UsageError: ``usage.hardware_devices``: it wants more than there are.
    """
    if place.devices is None or place.device == "cpu" or recipe.strategy == "single":
        return recipe
    if recipe.train.devices > place.devices:
        raise UsageError(
            "this machine has fewer devices",
            code="usage.hardware_devices",
            place="train.devices",
            value=f"{recipe.train.devices} of {place.devices}",
            hint="plan for several machines with --nodes",
        )
    if "devices" in recipe.train.model_fields_set:
        return recipe
    from tunesmith.recipe.load import apply_overrides, parse_recipe

    mapping = recipe.model_dump(mode="json", exclude_unset=True)
    return parse_recipe(apply_overrides(mapping, [f"train.devices={place.devices}"]))


def plan_recipe(
    recipe: Recipe,
    runs_folder: Path,
    hardware: str | None,
    audit: Callable[[], Mapping[str, Any]],
    count: Count | None = None,
) -> Planned:
    """Plan a recipe; arguments and errors as for :func:`scene_of`."""
    from tunesmith.planner.alternatives import alternatives, cheapest_fits, other_ways
    from tunesmith.planner.plan import make_plan

    scene = scene_of(recipe, runs_folder, hardware, audit, count)
    shape, data, place = scene.known.shape, scene.known.data, scene.hardware
    numbers: dict[str, Any] = {"counted": scene.counted, "new_tokens": scene.new_tokens}
    plan = make_plan(shape, scene.resolved, data, place, **numbers, estimated_tokens=scene.known.guessed)
    others = alternatives(shape, data, place, scene.change, **numbers)
    changes = cheapest_fits(shape, data, place, scene.change, **numbers)
    looked_at = [setting for way in other_ways(scene.resolved, place) for setting in way]
    left_out = tuple(f"{setting} {scene.lacked[setting]}" for setting in looked_at if setting in scene.lacked)
    return Planned(plan, scene.resolved, place, others, changes, left_out)
