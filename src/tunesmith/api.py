"""The Python door: the same use cases as the command line, in a few names.

print(tunesmith.plan({"model": "smollm2-135m-instruct", "data": {"train": "train.jsonl"}}).plan.memory.peak)
print(tunesmith.advise({"model": "smollm2-135m-instruct", "data": {"train": "train.jsonl"}}, prefer="memory").text)
run = tunesmith.train({"model": "smollm2-135m-instruct", "data": {"train": "train.jsonl"}})
print(run.metrics)
with tunesmith.load(run) as model:
    print(model.generate("Where is my parcel?"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import orjson

from tunesmith.errors import RunError, Stopped, TunesmithError
from tunesmith.executors.local.worker import LocalWorker
from tunesmith.jobs.control import discard_if_refused, start
from tunesmith.jobs.create import check_inputs, create_run, require_here
from tunesmith.jobs.follow import follow_worker
from tunesmith.jobs.serving import Speaker, serve
from tunesmith.runs.atomic import read_json
from tunesmith.runs.control import write_wish
from tunesmith.runs.events import Event
from tunesmith.runs.layout import RunFolder, default_runs_folder, find_run

if TYPE_CHECKING:
    from tunesmith.jobs.advice import Advice, Wish
    from tunesmith.jobs.planning import Planned
    from tunesmith.jobs.submitted import Job as SubmittedJob
    from tunesmith.recipe.schema import Recipe

Messages = Sequence[Mapping[str, Any]]


class Run:
    """A run on disk.

    Args:
        path: The run's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def report(self) -> dict[str, Any]:
        """The before/after report.

        Raises:
            RunError: The run is not finished.
        """
        folder = RunFolder(self.path)
        if not folder.report_json.exists():
            raise RunError("the run has no report yet", code="run.no_report", place=self.name)
        report: dict[str, Any] = read_json(folder.report_json)
        return report

    @property
    def metrics(self) -> dict[str, float | None]:
        """Held-out loss and metrics of the tuned model; raises as :attr:`report`."""
        report = self.report
        tuned: Mapping[str, Any] = next((item for item in report["systems"] if item["name"] == "tuned"), {})
        values = {**tuned.get("metrics", {}), **{key: tuned[key] for key in ("loss", "perplexity") if tuned.get(key)}}
        return {name: value.get("value") for name, value in values.items()}

    @property
    def adapter(self) -> Path | None:
        """The adapter's folder in PEFT's format; None for a technique that trains all weights."""
        folder = RunFolder(self.path).adapter
        return folder if folder.exists() else None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"


class Job:
    """A training that was submitted, wherever it runs.

    Args:
        path: The folder of its run on this machine.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """The name of its run."""
        return self.path.name

    @property
    def state(self) -> str:
        """``queued``, ``running``, ``paused``, ``succeeded``, ``failed``, ``cancelled`` or ``lost``."""
        from tunesmith.jobs.submitted import look

        return look(self._found()).status.state

    def wait(self) -> Run:
        """Wait until it has ended well.

        Raises:
            TunesmithError: The worker's own error, or WorkerError where the platform ended it.
            Stopped: It was paused or cancelled.
        """
        from tunesmith.jobs.submitted import follow

        job = self._found()
        for _ in follow(job):
            pass
        if self.state != "succeeded":
            raise Stopped(f"the job was {self.state}", code=f"run.{self.state}", place=self.name)
        return Run(self.path)

    def cancel(self) -> None:
        """Stop it for good."""
        from tunesmith.jobs.submitted import cancel

        cancel(self._found())

    def _found(self) -> SubmittedJob:
        from tunesmith.jobs.submitted import find_job

        return find_job(self.path.parent, self.name)

    def __repr__(self) -> str:
        return f"Job({str(self.path)!r})"


class Model:
    """A model or a run that answers, in a process of its own that ends with :meth:`close` or the ``with`` block."""

    def __init__(self, speaker: Speaker, stack: ExitStack) -> None:
        self._speaker = speaker
        self._stack = stack

    def generate(self, prompt: str | Messages, **options: Any) -> str:
        """The answer to a prompt, or to the last message of a conversation.

        Args:
            prompt: A text, or messages with ``role`` and ``content``.
            **options: ``temperature`` (0 unless given), ``max_tokens``, ``top_p``, ``seed``, ``stop``.

        Raises:
            UsageError: The request was refused, for instance because it is longer than the context.
            WorkerError: The process failed.
        """
        return self._speaker.client.chat(_messages(prompt), self._speaker.model, **{"temperature": 0.0, **options})

    def chat(self, messages: str | Messages, **options: Any) -> Iterator[str]:
        """As :meth:`generate`, the answer piece by piece as it comes."""
        asked = _messages(messages)
        return self._speaker.client.stream(asked, self._speaker.model, **{"temperature": 0.0, **options})

    def classify(self, texts: str | Sequence[str], *, context: str | None = None) -> list[dict[str, Any]]:
        """What a model with a head says of texts, one entry for each.

        Args:
            texts: One text or several; questions, where the head marks answers.
            context: The text in which such a head marks them.

        Returns:
            ``label``, ``score`` and ``scores`` of all labels; ``entities`` with ``text`` and ``label``; or ``answer``
            and ``score``. Scores are probabilities.

        Raises:
            UsageError: The request was refused, for instance because the model has no head or a text is too long.
            WorkerError: The process failed.
        """
        asked = [texts] if isinstance(texts, str) else list(texts)
        inputs = asked if context is None else [{"question": text, "context": context} for text in asked]
        found = self._speaker.client.classify(inputs, self._speaker.model)
        return [{key: value for key, value in one.to_json().items() if key != "index"} for one in found]

    def close(self) -> None:
        """End the process; a second call does nothing."""
        self._stack.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def train(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    name: str | None = None,
    output: str | Path | None = None,
    **overrides: Any,
) -> Run:
    """Train on this machine and wait until the report is written.

    Args:
        recipe: A recipe, the same as plain data, or the path of a YAML file.
        name: The run's name; the default is made from task and model.
        output: The folder of runs; the default is ``runs`` or TUNESMITH_HOME's.
        **overrides: Parts of the recipe to change: ``train={"epochs": 2}``, ``technique="full"``.

    Raises:
        TunesmithError: The worker's error, or one of the recipe, the model or the data before it started.
        Stopped: The run was paused or cancelled; ``tunesmith runs resume`` goes on with it.
    """
    parsed = _recipe(recipe, overrides)
    folder = Path(output) if output is not None else default_runs_folder()
    require_here(parsed)
    check_inputs(parsed, folder)
    run = create_run(parsed, folder, name)
    worker = start(run)
    try:
        _wait(run, worker)
    except TunesmithError as error:
        discard_if_refused(run, error)
        raise
    return Run(run.path.resolve())


def submit(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    name: str | None = None,
    key: str | None = None,
    storage: str | None = None,
    output: str | Path | None = None,
    **overrides: Any,
) -> Job:
    """Give a training to the recipe's executor, and return.

    Args:
        recipe: A recipe, the same as plain data, or the path of a YAML file.
        name: The run's name; the default is made from task and model.
        key: Submitted once more under this key, it is the same job.
        storage: Where runs of other machines lie: ``s3://...``, ``az://...``, or a folder that all mount.
        output: The folder of runs; the default is ``runs`` or TUNESMITH_HOME's.
        **overrides: Parts of the recipe to change: ``executor="ray"``.

    Raises:
        TunesmithError: The recipe cannot be used, or the executor refuses it.
    """
    from tunesmith.jobs.submitting import Asked
    from tunesmith.jobs.submitting import submit as submit_run

    folder = Path(output) if output is not None else default_runs_folder()
    return Job(submit_run(_recipe(recipe, overrides), folder, Asked(name, key, storage)).path.resolve())


def plan(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    hardware: str | None = None,
    output: str | Path | None = None,
    **overrides: Any,
) -> Planned:
    """Predict memory and time of a recipe, on this machine or on ``hardware`` by its id or file.

    Args:
        recipe: A recipe, a mapping or a file.
        hardware: An id of a known machine, or a file with a profile; this machine if None.
        output: The folder of runs, where a model that is a run is looked for.
        overrides: Values of the recipe, such as ``train={"devices": 8}``.

    Raises:
        TunesmithError: What is wrong with recipe, model, data or hardware.
    """
    from tunesmith.jobs.planning import plan_recipe

    wanted = _recipe(recipe, overrides)
    folder = default_runs_folder() if output is None else Path(output)
    return plan_recipe(wanted, folder, hardware, _auditing(wanted, folder))


def advise(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    prefer: Wish = "quality",
    hardware: str | None = None,
    matrix: str | Path | None = None,
    output: str | Path | None = None,
    **overrides: Any,
) -> Advice:
    """Propose a recipe for a model and data, with reasons.

    Args:
        recipe: A recipe, a mapping or a file; its technique is chosen here.
        prefer: What matters most: quality, memory, time or cost.
        hardware: An id of a known machine, or a file with a profile; this machine if None.
        matrix: Measurements of your own, the JSON file of ``tunesmith matrix``; those that ship if None.
        output: The folder of runs, where a model that is a run is looked for.
        overrides: Values of the recipe, such as ``train={"budget": "1h"}``.

    Raises:
        TunesmithError: What is wrong with recipe, model, data or hardware, or that nothing fits there.
    """
    from tunesmith.jobs.advice import advise as find
    from tunesmith.jobs.advice import measured_matrix
    from tunesmith.matrix.cell import read_matrix

    wanted = _recipe(recipe, overrides)
    folder = default_runs_folder() if output is None else Path(output)
    measured = measured_matrix() if matrix is None else read_matrix(Path(matrix))
    return find(wanted, folder, _auditing(wanted, folder), hardware=hardware, wish=prefer, matrix=measured)


def _auditing(recipe: Recipe, folder: Path) -> Callable[[], Mapping[str, Any]]:
    """The rows in tokens and the model in numbers, by the worker's audit."""
    from tunesmith.jobs.stages import audit
    from tunesmith.recipe.load import dump_recipe

    def look() -> Mapping[str, Any]:
        found = audit(dump_recipe(recipe), _ignore, runs_folder=folder)
        if found.error is not None:
            raise found.error
        return found.facts

    return look


def load(run_or_model: Run | str | Path, *, output: str | Path | None = None) -> Model:
    """Start a process that answers for a run or a model.

    Args:
        run_or_model: A run, its name or folder, a catalog id or a hub id.
        output: The folder of runs, where it is not the default one.

    Raises:
        ModelError: There is no such model.
        WorkerError: The process did not start.
    """
    name = str(run_or_model.path) if isinstance(run_or_model, Run) else str(run_or_model)
    folder = Path(output) if output is not None else default_runs_folder()
    with ExitStack() as stack:
        speakers = stack.enter_context(serve(name, folder, _ignore))
        return Model(speakers[-1], stack.pop_all())
    raise AssertionError("unreachable: the block above returns or raises")


def register(
    run: Run | str | Path,
    name: str,
    *,
    stage: str | None = None,
    aliases: Sequence[str] = (),
    description: str = "",
    with_base: bool = False,
    checkpoints: bool = True,
    registry: str | None = None,
    output: str | Path | None = None,
) -> str:
    """Make a version of a run, finished or still training, or of a folder with a model or an adapter.

    Args:
        run: A run, its name or folder, or a model's folder.
        name: Under which name.
        stage: staging, production or archived.
        aliases: Further names.
        description: What it is, for people.
        with_base: Copy the base model too, also one that can be fetched.
        checkpoints: Keep the checkpoints that the run has now.
        registry: A folder, ``s3://...`` or ``az://...``; the default registry if None.
        output: The folder of runs, where it is not the default one.

    Returns:
        The version's address, such as ``support-router:3``.

    Raises:
        TunesmithError: There is no such run, it holds no model, or the registry cannot be written.
    """
    from tunesmith.jobs.registry import Wanted
    from tunesmith.jobs.registry import register as register_source
    from tunesmith.registry.place import open_registry

    source = str(run.path) if isinstance(run, Run) else str(run)
    folder = Path(output) if output is not None else default_runs_folder()
    wanted = Wanted(name, tuple(aliases), stage, description, with_base=with_base, checkpoints=checkpoints)
    return register_source(open_registry(registry), source, folder, wanted, _ignore).version.address


def open_run(name: str | Path, *, output: str | Path | None = None) -> Run:
    """A run that is there already, by name or folder.

    Raises:
        RunError: There is no such run.
    """
    folder = Path(output) if output is not None else default_runs_folder()
    return Run(find_run(folder, str(name)).path)


def _wait(run: RunFolder, worker: LocalWorker) -> None:
    try:
        for _ in follow_worker(worker):
            pass
    except KeyboardInterrupt:
        # The worker is a session of its own and would train on unseen.
        write_wish(run.control, "pause")
        try:
            worker.process.wait()
        except KeyboardInterrupt:
            worker.terminate()
        raise Stopped(
            "interrupted", code="run.paused", place=run.name, hint="resume it with `tunesmith runs resume`"
        ) from None


def _recipe(recipe: Recipe | Mapping[str, Any] | str | Path, overrides: Mapping[str, Any]) -> Recipe:
    from tunesmith.recipe.load import apply_overrides, parse_recipe, read_mapping
    from tunesmith.recipe.schema import Recipe as RecipeModel

    mapping: Mapping[str, Any]
    if isinstance(recipe, RecipeModel):
        mapping, place = recipe.model_dump(mode="json", exclude_unset=True), "recipe"
    elif isinstance(recipe, Mapping):
        mapping, place = dict(recipe), "recipe"
    else:
        mapping, place = read_mapping(Path(recipe)), str(recipe)
    settings = [f"{key}={orjson.dumps(value).decode()}" for key, value in _flat(overrides)]
    return parse_recipe(apply_overrides(mapping, settings), place)


def _flat(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        name = f"{path}.{key}" if path else key
        if isinstance(item, Mapping):
            yield from _flat(item, name)
        else:
            yield name, item


def _messages(prompt: str | Messages) -> Messages:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _ignore(_event: Event) -> None:
    return
