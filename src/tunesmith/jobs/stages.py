"""Stages that need a tokenizer or weights, each run by a worker in a scratch folder of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.errors import CheckpointError, SupervisionError, WorkerError
from tunesmith.executors.local.worker import SCRATCH_PREFIX, known_working_folder, start_worker
from tunesmith.jobs.follow import follow_worker
from tunesmith.jobs.prune import prune_scratch
from tunesmith.registry.names import looks_like_address
from tunesmith.runs.atomic import read_json, telling_output_errors, write_json, write_text
from tunesmith.runs.events import Event
from tunesmith.storage.run_store import INPUTS

if TYPE_CHECKING:
    from tunesmith.planner.counted import Question
    from tunesmith.planner.trained import Counted

Stage = Literal["audit", "evaluate", "benchmark", "chart", "matrix", "export", "pull", "checkpoint", "count"]
OnEvent = Callable[[Event], None]
OnPoll = Callable[[], None]


@dataclass(frozen=True)
class AuditResult:
    """What the audit stage wrote. ``resolved`` is None where the audit refused the data before values were chosen.

    ``facts`` are the rows in tokens, the model and this machine in numbers, from which plans are made.
    """

    audit: dict[str, Any]
    resolved: dict[str, Any] | None
    error: SupervisionError | None
    facts: dict[str, Any]


@dataclass(frozen=True)
class PulledModel:
    """A model on disk: its folder, and the adapter where the name meant a tuned one."""

    folder: Path
    adapter: Path | None


def audit(
    recipe_yaml: str,
    on_event: OnEvent,
    *,
    show: int = 0,
    runs_folder: Path | None = None,
    command: Sequence[str] | None = None,
) -> AuditResult:
    """Audit the supervision of a recipe.

    Args:
        recipe_yaml: The recipe's text.
        on_event: Gets every event of the worker.
        show: How many rows are wanted with their tokens.
        runs_folder: Where a model that is a run is looked for; the default folder unless given.
        command: The worker's program, the real one unless given.

    Raises:
        TunesmithError: The worker's error; a SupervisionError only where the worker wrote no audit.json.
    """
    with scratch_folder() as folder:
        write_text(folder / "recipe.yaml", recipe_yaml)
        write_json(folder / "request.json", {"show": show, **_where(runs_folder)})
        error = None
        try:
            _run(folder, "audit", on_event, command)
        except SupervisionError as refused:
            if not (folder / "audit.json").exists():
                raise
            error = refused
        resolved, facts = folder / "resolved.json", folder / "facts.json"
        return AuditResult(
            read_json(_written(folder, "audit.json")),
            read_json(resolved) if resolved.exists() else None,
            error,
            read_json(facts) if facts.exists() else {},
        )


def pull(
    name: str, on_event: OnEvent, *, runs_folder: Path | None = None, command: Sequence[str] | None = None
) -> PulledModel:
    """Bring a model to this machine, or find it here; runs are looked for in ``runs_folder`` or the default one.

    Raises:
        ModelError: There is no such model, or it cannot be used.
        NetworkError: No source answered.
    """
    make_usable([name], on_event, runs_folder=runs_folder, command=command)
    with scratch_folder() as folder:
        write_json(folder / "request.json", {"model": name, **_where(runs_folder)})
        found: dict[str, Any] = {}

        def note(event: Event) -> None:
            if event.type == "artifact" and event.data.get("kind") == "model":
                found.update(event.data)
            on_event(event)

        _run(folder, "pull", note, command)
        if "path" not in found:
            raise _missing(folder, "the model's place")
        adapter = found.get("adapter")
        return PulledModel(Path(found["path"]), Path(adapter) if adapter else None)


@contextmanager
def evaluate(
    request: Mapping[str, Any],
    on_event: OnEvent,
    *,
    runs_folder: Path | None = None,
    working_folder: Path | None = None,
    on_poll: OnPoll | None = None,
    command: Sequence[str] | None = None,
) -> Iterator[Path]:
    """Measure a model on data; the block gets the folder with report.json, .md and .html, which ends with it.

    Args:
        request: What is measured, and how.
        on_event: Gets every event of the worker.
        runs_folder: Where a model that is a run is looked for; the default folder unless given.
        working_folder: Where relative paths of the request begin; the current folder unless given.
        on_poll: Called several times a second; what it raises ends the worker.
        command: The worker's program, the real one unless given.

    Raises:
        TunesmithError: The worker's error.
    """
    make_usable([request["model"]], on_event, runs_folder=runs_folder, command=command)
    with scratch_folder() as folder:
        write_json(folder / "request.json", {**request, **_where(runs_folder)})
        _run(folder, "evaluate", on_event, command, working_folder=working_folder, on_poll=on_poll)
        _written(folder, "report.json")
        yield folder


@contextmanager
def benchmark(
    request: Mapping[str, Any],
    on_event: OnEvent,
    *,
    runs_folder: Path | None = None,
    working_folder: Path | None = None,
    on_poll: OnPoll | None = None,
    command: Sequence[str] | None = None,
) -> Iterator[Path]:
    """Measure a model by multiple choice or by tasks of the harness; arguments and block as of :func:`evaluate`.

    Raises:
        TunesmithError: The worker's error.
    """
    make_usable([request["model"]], on_event, runs_folder=runs_folder, command=command)
    with scratch_folder() as folder:
        write_json(folder / "request.json", {**request, **_where(runs_folder)})
        _run(folder, "benchmark", on_event, command, working_folder=working_folder, on_poll=on_poll)
        _written(folder, "report.json")
        yield folder


@contextmanager
def chart(
    reports: Sequence[Mapping[str, Any]],
    metrics: Sequence[str],
    on_event: OnEvent,
    *,
    command: Sequence[str] | None = None,
) -> Iterator[Path]:
    """Draw reports side by side; the block gets the folder with chart.json, .svg, .png and .html, which ends with it.

    Raises:
        TunesmithError: The worker's error.
    """
    with scratch_folder() as folder:
        write_json(folder / "request.json", {"reports": list(reports), "metrics": list(metrics)})
        _run(folder, "chart", on_event, command)
        _written(folder, "chart.json")
        yield folder


@contextmanager
def matrix_pictures(
    matrix: Mapping[str, Any], on_event: OnEvent, *, command: Sequence[str] | None = None
) -> Iterator[Path]:
    """Draw a matrix; the block gets the folder with matrix.png and matrix.svg, which ends with it.

    Raises:
        TunesmithError: The worker's error.
    """
    with scratch_folder() as folder:
        write_json(folder / "matrix.json", dict(matrix))
        _run(folder, "matrix", on_event, command)
        _written(folder, "matrix.png")
        yield folder


def export(
    request: Mapping[str, Any],
    on_event: OnEvent,
    *,
    runs_folder: Path | None = None,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Export a model; the record of the export that the request's ``output`` now is.

    Raises:
        TunesmithError: The worker's error; then there is no such folder.
    """
    with scratch_folder() as folder:
        write_json(folder / "request.json", {**request, **_where(runs_folder)})
        _run(folder, "export", on_event, command)
        record: dict[str, Any] = read_json(_written(Path(request["output"]), "export.json"))
        return record


@contextmanager
def checkpoints(
    run: Path, steps: Sequence[Path], on_event: OnEvent, *, command: Sequence[str] | None = None
) -> Iterator[Path]:
    """Make checkpoints of a run usable by themselves; the run may go on, and remove them, meanwhile.

    Args:
        run: The run's folder.
        steps: The folders of its checkpoints.
        on_event: Gets every event of the worker.
        command: The worker's program, the real one unless given.

    Yields:
        A folder that has one for each checkpoint, of the same name; it ends with the block.

    Raises:
        CheckpointError: One of them is gone or not whole.
        TunesmithError: The worker's error.
    """
    with scratch_folder() as folder:
        for step in steps:
            _keep(step, folder / "checkpoints" / step.name)
        request = {"run": str(run.resolve()), "steps": [int(step.name.removeprefix("step-")) for step in steps]}
        write_json(folder / "request.json", request)
        # The recipe of a job that another machine does names what lies in its run's folder.
        place = known_working_folder(run) or (run if (run / INPUTS).is_dir() else None)
        _run(folder, "checkpoint", on_event, command, working_folder=place)
        yield _written(folder, "usable")


def count(
    question: Question,
    on_event: OnEvent,
    *,
    on_poll: OnPoll | None = None,
    command: Sequence[str] | None = None,
) -> Counted:
    """Count what a technique trains, in the model built without weights; arguments as of :func:`evaluate`.

    Raises:
        RecipeError, ModelError: Training would refuse technique or model as well.
        TunesmithError: The worker's error.
    """
    from tunesmith.planner.trained import Counted

    with scratch_folder() as folder:
        write_json(folder / "request.json", question.to_json())
        _run(folder, "count", on_event, command, on_poll=on_poll)
        found = read_json(_written(folder, "counted.json"))
        return Counted(question.technique, found["trained"], found["why"])


def make_usable(
    models: Sequence[str],
    on_event: OnEvent,
    *,
    runs_folder: Path | None = None,
    command: Sequence[str] | None = None,
) -> None:
    """See to it that checkpoints of the registry among these models can be used; of others nothing is looked at.

    Raises:
        TunesmithError: An address means nothing, or its checkpoint cannot be made usable.
    """
    if any(looks_like_address(model) for model in models):
        # It starts a stage of this module.
        from tunesmith.jobs.checkpoints import make_usable as make

        for model in models:
            make(model, on_event, runs_folder=runs_folder, command=command)


def _keep(step: Path, target: Path) -> None:
    """Keep a checkpoint's files, by hard links where that is possible: the run may remove its own at any moment."""
    target.mkdir(parents=True)
    try:
        for path in step.iterdir():
            try:
                os.link(path, target / path.name)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copyfile(path, target / path.name)
    except FileNotFoundError as error:
        raise CheckpointError(
            "the run has removed this checkpoint",
            code="checkpoint.removed",
            place=str(step),
            hint="a version keeps the ones that were asked for in time; train.keep_checkpoints keeps more of them",
        ) from error


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is removed at the end of the block; ones left by killed commands are removed first."""
    prune_scratch()
    place = Path(tempfile.gettempdir())
    with telling_output_errors(place):
        holder = tempfile.TemporaryDirectory(prefix=f"{SCRATCH_PREFIX}{os.getpid()}-", ignore_cleanup_errors=True)
    with holder as folder:
        yield Path(folder)


def _run(
    folder: Path,
    stage: Stage,
    on_event: OnEvent,
    command: Sequence[str] | None,
    *,
    working_folder: Path | None = None,
    on_poll: OnPoll | None = None,
) -> None:
    # Nobody reads what a stage writes once its command is gone, however that went.
    worker = start_worker(
        folder, stage=stage, command=command, working_folder=working_folder or Path.cwd(), outlives_us=False
    )
    try:
        for event in follow_worker(worker, on_poll=on_poll):
            on_event(event)
    finally:
        worker.terminate()


def _where(runs_folder: Path | None) -> dict[str, str]:
    """The part of a request that says where runs lie; the worker's current folder may be another."""
    return {} if runs_folder is None else {"runs_folder": str(runs_folder.absolute())}


def _written(folder: Path, name: str) -> Path:
    if not (folder / name).exists():
        raise _missing(folder, name)
    return folder / name


def _missing(folder: Path, what: str) -> WorkerError:
    log = folder / "worker.log"
    value = log.read_text(encoding="utf-8", errors="replace")[-2000:] if log.exists() else None
    return WorkerError(f"the worker ended well but did not write {what}", code="worker.incomplete", value=value)
