"""Make a run from a recipe, after everything that can be checked without a worker was checked."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.errors import RunError, TunesmithError, UsageError
from tunesmith.jobs.registered_runs import note_use, with_version
from tunesmith.runs.atomic import write_text
from tunesmith.runs.layout import RunFolder, check_name, default_runs_folder, free_name
from tunesmith.runs.layout import create_run as create_folder

if TYPE_CHECKING:
    from tunesmith.recipe.schema import Recipe

_MAX_STEM = 60


def check_inputs(recipe: Recipe, runs_folder: Path, *, model: bool = True) -> None:
    """Refuse a model or data that no worker could use, before a run folder exists.

    Args:
        recipe: As the user gave it.
        runs_folder: Where runs lie.
        model: Whether the model is looked at; a service that trains by itself has models of its own, and may have data.

    Raises:
        ModelError: The model's name means nothing.
        DataError: A data source is missing, empty, of no known form, or has bad rows that are refused.
        NetworkError: A source lies on a hub that did not answer.
    """
    from tunesmith.catalog.resolve import resolve_model
    from tunesmith.formats.choices import read_choices
    from tunesmith.formats.inspect import inspect_source
    from tunesmith.jobs.stages import make_usable

    if model:
        make_usable([recipe.model], lambda _event: None, runs_folder=runs_folder)
        resolve_model(recipe.model, runs_folder)
    columns = None if recipe.data.columns == "auto" else dict(recipe.data.columns)
    shape = None if recipe.data.shape == "auto" else recipe.data.shape
    for source in data_sources(recipe):
        if not model and ":" in source.partition("/")[0] and not Path(source).exists():
            # An address of the service, such as azureml:NAME:VERSION.
            continue
        inspect_source(source, columns=columns, shape=shape).require_usable(recipe.data.on_bad_rows)
    if recipe.evaluate.multiple_choice is not None:
        read_choices(recipe.evaluate.multiple_choice)


def require_here(recipe: Recipe) -> None:
    """Refuse a recipe whose run takes place elsewhere, for commands that train on this machine.

    Raises:
        UsageError: ``usage.executor``.
    """
    if recipe.executor.name != "local":
        raise UsageError(
            "this recipe runs elsewhere",
            code="usage.executor",
            place="executor",
            value=recipe.executor.name,
            hint="give it to `tunesmith submit`, or say executor=local to train here",
        )


def data_sources(recipe: Recipe) -> list[str]:
    """Every training and validation source that a recipe names."""
    train = recipe.data.train
    sources = [train] if isinstance(train, str) else [source.path for source in train]
    return [*sources, recipe.data.validation] if isinstance(recipe.data.validation, str) else sources


def findable_model(model: str) -> str:
    """A model's name as a worker finds it that runs elsewhere: of a folder or a run its path.

    A version of the registry has the same name wherever the registry is named by TUNESMITH_REGISTRY.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return str(path.resolve())
    run = default_runs_folder() / model
    return str(run.resolve()) if (run / "recipe.yaml").is_file() else model


def name_stem(recipe: Recipe) -> str:
    """What a run without a name of its own is called, before the number."""
    model = re.split(r"[/\\]", recipe.model.rstrip("/\\"))[-1]
    parts = [model] if recipe.task == "auto" else [recipe.task, model]
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)).strip("-._")[:_MAX_STEM]
    return stem.lower() or "run"


def create_run(recipe: Recipe, runs_folder: Path, name: str | None = None) -> RunFolder:
    """Make the run folder with its recipe; starts nothing.

    Raises:
        RunError: The name is taken or not usable.
        OutputError: The folder cannot be written; nothing is left behind.
    """
    from tunesmith.recipe.load import dump_recipe

    recipe = with_version(recipe)
    run = create_folder(runs_folder, check_name(name)) if name is not None else _create_free(recipe, runs_folder)
    try:
        write_text(run.recipe, dump_recipe(recipe))
        note_use(run, recipe.model)
    except TunesmithError:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run


def _create_free(recipe: Recipe, runs_folder: Path) -> RunFolder:
    """A folder under the first free number; another command may take a number between looking and making."""
    stem = name_stem(recipe)
    while True:
        try:
            return create_folder(runs_folder, free_name(runs_folder, stem))
        except RunError as error:
            if error.code != "run.exists":
                raise
