"""Give a run to an executor: everything that it needs goes with it, and what was agreed is kept in its job.json."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError, RunError, TunesmithError, UsageError
from tunesmith.executors.protocol import Renders, Submission
from tunesmith.executors.table import make_executor, needs_store, trains_by_itself
from tunesmith.jobs.create import check_inputs, create_run, name_stem
from tunesmith.recipe.load import dump_recipe
from tunesmith.recipe.schema import DataSource, Recipe
from tunesmith.runs.atomic import read_json, write_json, write_text
from tunesmith.runs.layout import RunFolder, check_name, free_name
from tunesmith.storage.address import open_store
from tunesmith.storage.mirror import put_run
from tunesmith.storage.run_store import INPUTS, JOB, RunStore

_WRITTEN_NAMES = 40


@dataclass(frozen=True)
class Asked:
    """How a run is to be submitted.

    Attributes:
        name: The run's name; chosen where it is None.
        key: Submissions of one key are one job; None: every submission is a job of its own.
        storage: Address of the store in which runs of other machines lie; runs are folders below it.
    """

    name: str | None = None
    key: str | None = None
    storage: str | None = None


@dataclass(frozen=True)
class Portable:
    """A recipe whose files lie within the run, and where they lie on this machine."""

    recipe: Recipe
    inputs: Mapping[str, Path]


def submit(recipe: Recipe, runs_folder: Path, asked: Asked) -> RunFolder:
    """Make a run, bring it where its executor can work for it, and submit it.

    A run of the same key that is here already is given back, after its submission was made sure.

    Raises:
        TunesmithError: The recipe's model or data cannot be used, the executor refuses, a store does not answer. A
            run that nobody heard of is removed again.
    """
    known = None if asked.key is None else find_by_key(runs_folder, asked.key)
    if known is not None:
        return send(known)
    check_inputs(recipe, runs_folder, model=not trains_by_itself(recipe.executor))
    stored, storage = needs_store(recipe.executor), asked.storage
    if stored and storage is None:
        raise UsageError(
            "workers of other machines need a store for the run",
            code="usage.no_storage",
            value=recipe.executor.name,
            hint="give --storage s3://bucket/runs, az://container/runs, or a folder that all machines mount",
        )
    portable = portable_recipe(recipe, runs_folder, within=stored)
    run = create_run(portable.recipe, runs_folder, asked.name)
    job = {
        "format": 1,
        "name": run.name,
        "key": asked.key or _key_of(run),
        "executor": recipe.executor.model_dump(mode="json"),
        "run": run_url(storage, run.name) if stored and storage is not None else None,
        "inputs": {path: str(source) for path, source in portable.inputs.items()},
        "submitted": time.time(),
        "handle": None,
    }
    write_json(run.path / JOB, job)
    try:
        return send(run)
    except TunesmithError as error:
        if not error.retryable:
            shutil.rmtree(run.path, ignore_errors=True)
        raise


def render(recipe: Recipe, runs_folder: Path, asked: Asked, folder: Path) -> list[Path]:
    """Write what would be submitted into a folder, and submit nothing; the files.

    Raises:
        UsageError: The executor submits no files.
        OutputError: The folder cannot be written.
    """
    executor = make_executor(recipe.executor, runs_folder)
    if not isinstance(executor, Renders):
        raise UsageError(
            "this executor submits no files", code="usage.render", value=recipe.executor.name, hint="leave --render out"
        )
    name = check_name(asked.name) if asked.name is not None else free_name(runs_folder, name_stem(recipe))
    portable = portable_recipe(recipe, runs_folder, within=True)
    url = run_url(asked.storage or "/runs", name)
    submission = _submission(name, asked.key or name, url, portable)
    written = []
    for path, text in executor.render(submission).items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, text)
        written.append(place)
    return written


def run_url(storage: str, name: str) -> str:
    """The address of a run below a store; a plain path is a folder that all machines mount."""
    place = storage if "://" in storage else f"file://{Path(storage).expanduser().absolute()}"
    return f"{place.rstrip('/')}/{name}"


def portable_recipe(recipe: Recipe, runs_folder: Path, *, within: bool) -> Portable:
    """The recipe as a worker elsewhere can follow it.

    Args:
        recipe: As the user gave it; its paths start in the current folder.
        runs_folder: Where runs are found by name.
        within: Whether files come along below ``inputs/``; else they stay, by their whole paths.

    Raises:
        ModelError: A model that is a run cannot come along.
    """
    inputs: dict[str, Path] = {}

    def placed(source: str, what: str) -> str:
        path = Path(source).expanduser()
        if not path.exists():
            # An id of a hub, which is found from everywhere.
            return source
        if not within:
            return str(path.resolve())
        target = f"{INPUTS}/{what}/{path.resolve().name}"
        for file in [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file()):
            inner = "" if path.is_file() else f"/{file.relative_to(path).as_posix()}"
            inputs[f"{target}{inner}"] = file.resolve()
        return target

    data = recipe.data
    train: str | tuple[DataSource, ...] = (
        placed(data.train, "train")
        if isinstance(data.train, str)
        else tuple(
            one.model_copy(update={"path": placed(one.path, f"train-{at}")}) for at, one in enumerate(data.train)
        )
    )
    changed: dict[str, Any] = {"train": train}
    if isinstance(data.validation, str):
        changed["validation"] = placed(data.validation, "validation")
    update: dict[str, Any] = {
        "data": data.model_copy(update=changed),
        "model": _placed_model(recipe.model, runs_folder, placed, within=within),
    }
    choices = recipe.evaluate.multiple_choice
    if choices is not None:
        update["evaluate"] = recipe.evaluate.model_copy(update={"multiple_choice": placed(choices, "choices")})
    return Portable(recipe.model_copy(update=update), inputs)


def _placed_model(model: str, runs_folder: Path, placed: Callable[[str, str], str], *, within: bool) -> str:
    path, run = Path(model).expanduser(), runs_folder / model
    if not path.is_dir() and (run / "recipe.yaml").is_file():
        path = run
    if not path.is_dir():
        return model
    if within and (path / "recipe.yaml").is_file():
        raise ModelError(
            "a run of this machine cannot be taken along",
            code="model.not_portable",
            value=model,
            hint="register it and name the version, or export it (--to merged) and name the folder",
        )
    return placed(str(path), "model")


def find_by_key(runs_folder: Path, key: str) -> RunFolder | None:
    """The run that was submitted under a key."""
    if not runs_folder.is_dir():
        return None
    for path in sorted(runs_folder.iterdir()):
        if (path / JOB).is_file() and str(read_json(path / JOB).get("key")).partition("+")[0] == key:
            return RunFolder(path.resolve())
    return None


def send_again(run: RunFolder) -> None:
    """Submit a run once more, to go on where its last worker left it; it is a new job for the executor.

    Raises:
        TunesmithError: As of :func:`submit`.
    """
    job = read_json(run.path / JOB)
    attempt = attempt_of(job) + 1
    base = str(job["key"]).partition("+")[0]
    write_json(run.path / JOB, {**job, "key": f"{base}+{attempt}", "attempt": attempt, "handle": None})
    send(run)


def send(run: RunFolder) -> RunFolder:
    """Submit what job.json says; once more changes nothing, since executors go by the key.

    Raises:
        TunesmithError: As of :func:`submit`. RunError ``run.inputs``: files are gone that nobody has put into the
            store before.
    """
    from tunesmith.recipe.load import load_recipe

    job = read_json(run.path / JOB)
    if job["handle"] is not None:
        return run
    recipe = load_recipe(run.recipe)
    inputs = {path: Path(source) for path, source in job["inputs"].items()}
    store = None if job["run"] is None else RunStore(open_store(job["run"]))
    if store is None or not store.store.exists(JOB):
        _require_files(run, inputs)
    if store is not None:
        # The store keeps the first key: later attempts are the same run.
        told = {**{key: job[key] for key in ("format", "name", "submitted")}, "key": job["key"].partition("+")[0]}
        put_run(store, dump_recipe(recipe), inputs, told)
        # Before the platform hears of it: whoever goes on from here on another machine sends it under the same key.
        store.write_submission(attempt_of(job), job)
    place = job["run"] or str(run.path.resolve())
    submission = _submission(run.name, job["key"], place, Portable(recipe, inputs))
    job["handle"] = dict(make_executor(recipe.executor, run.path.parent).submit(submission))
    if store is not None:
        store.write_submission(attempt_of(job), job)
    write_json(run.path / JOB, job)
    return run


def attempt_of(record: Mapping[str, Any]) -> int:
    """How often the run of a job.json was submitted, this time included."""
    return int(record.get("attempt", 1))


def _require_files(run: RunFolder, inputs: Mapping[str, Path]) -> None:
    missing = [str(source) for source in inputs.values() if not source.is_file()]
    if missing:
        raise RunError("files of the run are gone", code="run.inputs", place=run.name, value=", ".join(missing[:5]))


def _submission(name: str, key: str, place: str, portable: Portable) -> Submission:
    train = portable.recipe.train
    return Submission(
        name,
        key,
        place,
        portable.recipe,
        portable.inputs,
        devices=train.devices,
        nodes=train.nodes,
    )


def _key_of(run: RunFolder) -> str:
    """A key that no other run has: of its place and its moment."""
    told = f"{run.path.resolve()} {time.time_ns()}"
    return hashlib.sha256(told.encode()).hexdigest()[:_WRITTEN_NAMES]
