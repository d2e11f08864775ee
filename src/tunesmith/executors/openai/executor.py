"""A service that speaks OpenAI's language for fine-tuning: it trains by itself, and keeps what it tuned.

A submission's key is in the job's metadata, in the names of its files and in the header Idempotency-Key, so that one
whose answer was lost is found again whichever of these a service keeps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from tunesmith.errors import RunError
from tunesmith.executors.openai.client import at, located, open_service, where
from tunesmith.executors.openai.files import (
    FEWEST_ROWS,
    Written,
    known_files,
    mark_of,
    result_names,
    result_table,
    upload,
    write_rows,
)
from tunesmith.executors.openai.limits import Allowed, allowed
from tunesmith.executors.openai.rows import read_data
from tunesmith.executors.openai.told import (
    OVER,
    Cursor,
    line_of,
    new_checkpoints,
    new_events,
    next_cursor,
    status_of,
    told_of,
)
from tunesmith.executors.protocol import Handle, JobStatus, Submission, Told
from tunesmith.recipe.executors.openai import OpenAi
from tunesmith.runs.atomic import write_bytes, write_json
from tunesmith.runs.layout import RunFolder

KEY_FIELD, RUN_FIELD = "tunesmith_key", "tunesmith_run"
_PAGE = 100


class OpenAiService:
    """See :class:`tunesmith.executors.protocol.Executor`; it renders, pauses and tells."""

    def __init__(self, spec: OpenAi) -> None:
        self._spec = spec

    def submit(self, submission: Submission) -> Handle:
        """Bring the rows there and make the job, or find the one of this key.

        Raises:
            RecipeError: The service cannot honour what the recipe asks for; nothing was sent.
            TunesmithError: As of reading data, and of :func:`tunesmith.executors.openai.client.open_service`.
        """
        spec = located(self._spec)
        data = read_data(submission.recipe, submission.inputs)
        plan = allowed(submission.recipe, shape=data.shape, task=data.task.name)
        with open_service(spec) as client, tempfile.TemporaryDirectory(prefix="tunesmith-rows-") as scratch:
            job, warnings = _find(client, submission.key), plan.warnings
            if job is None:
                # Azure asks for the byte order mark.
                written = write_rows(data, Path(scratch), submission.key, with_mark=spec.api == "azure")
                warnings += _few(written)
                job = _make(client, spec, submission, plan, written)
            return {"job": job.id, "service": where(spec), "warnings": list(warnings)}

    def render(self, submission: Submission) -> Mapping[str, str]:
        """The request and both files; the ids of files are known only when they are there."""
        data = read_data(submission.recipe, submission.inputs)
        plan = allowed(submission.recipe, shape=data.shape, task=data.task.name)
        files = {
            "training.jsonl": b"".join(data.training_lines()).decode(),
            "validation.jsonl": b"".join(data.validation_lines()).decode(),
        }
        ids = [name if text else None for name, text in files.items()]
        body = _request(self._spec, submission, plan, str(ids[0]), ids[1])
        extra = body.pop("extra_body", {})
        request = orjson.dumps({**body, **extra}, option=orjson.OPT_INDENT_2).decode() + "\n"
        return {"job.json": request, **{name: text for name, text in files.items() if text}}

    def status(self, handle: Handle) -> JobStatus:
        """See :class:`tunesmith.executors.protocol.Executor`."""
        with self._service(handle) as client:
            job = _job(client, handle)
            return JobStatus("lost", reason="the service has no such job") if job is None else status_of(job)

    def logs(self, handle: Handle) -> Iterator[str]:
        """The service's own messages, oldest first."""
        with self._service(handle) as client:
            if _job(client, handle) is not None:
                yield from map(line_of, new_events(client, handle["job"], Cursor()))

    def cancel(self, handle: Handle) -> None:
        """See :class:`tunesmith.executors.protocol.Executor`."""
        with self._service(handle) as client:
            import openai

            job = _job(client, handle)
            if job is None or job.status in OVER:
                return
            try:
                client.fine_tuning.jobs.cancel(job.id)
            except openai.APIStatusError:
                # It may have ended in this moment.
                job = _job(client, handle)
                if job is not None and job.status not in OVER:
                    raise

    def pause(self, handle: Handle) -> None:
        """Ask the service to pause the job.

        Raises:
            RunError: ``job.no_pause``: the service cannot.
        """
        self._ask(handle, "pause")

    def resume(self, handle: Handle) -> None:
        """Ask the service to go on with a paused job.

        Raises:
            RunError: ``job.no_resume``: the service cannot.
        """
        self._ask(handle, "resume")

    def tell(self, handle: Handle, cursor: str | None) -> tuple[Sequence[Told], str | None]:
        """See :class:`tunesmith.executors.protocol.Tells`."""
        before = Cursor.read(cursor)
        if before.state in OVER:
            return [], cursor
        with self._service(handle) as client:
            job = _job(client, handle)
            if job is None:
                return [], cursor
            events = new_events(client, job.id, before)
            looks = bool(events) or job.status != before.state
            checkpoints = new_checkpoints(client, job.id, before) if looks else []
        told = told_of(job, events, checkpoints, before.state)
        if cursor is None:
            told = [*(Told("warning", {"code": "openai.recipe", "message": one}) for one in handle["warnings"]), *told]
        return told, next_cursor(job, events, checkpoints, before).write()

    def fetch(self, handle: Handle, folder: Path) -> Sequence[Path]:
        """Bring the tables of results here, and write down what the tuned model is called and where it is."""
        import openai

        brought, failed = [], []
        with self._service(handle) as client:
            job = client.fine_tuning.jobs.retrieve(handle["job"])
            files = [client.files.retrieve(one) for one in job.result_files or []]
            for name, identifier in result_names(files).items():
                try:
                    content = client.files.content(identifier).read()
                except openai.NotFoundError:
                    # Services keep results for some time only; the model is what counts.
                    failed.append(identifier)
                    continue
                write_bytes(folder / name, result_table(content))
                brought.append(folder / name)
        place = RunFolder(folder).service_model
        content_of_place = {
            "name": job.fine_tuned_model,
            "base": job.model,
            **handle["service"],
            "job": job.id,
            "trained_tokens": job.trained_tokens,
            "results": [path.name for path in brought],
            "missing_results": failed,
        }
        write_json(place, content_of_place)
        return [*brought, place]

    def _service(self, handle: Handle) -> Any:
        return open_service(at(self._spec, handle["service"]))

    def _ask(self, handle: Handle, what: str) -> None:
        with self._service(handle) as client:
            import openai

            try:
                getattr(client.fine_tuning.jobs, what)(handle["job"])
            except openai.APIStatusError as error:
                if error.status_code not in (404, 405, 501) or _job(client, handle) is None:
                    raise
                raise RunError(
                    f"the service cannot {what} a job",
                    code=f"job.no_{what}",
                    value=handle["job"],
                    hint="it can be cancelled and submitted anew",
                ) from None


def _make(client: Any, spec: OpenAi, submission: Submission, plan: Allowed, written: Written) -> Any:
    """Bring the files there and make the job."""
    import openai

    known = known_files(client, submission.key)
    training = upload(client, written.training, known)
    validation = None if written.validation is None else upload(client, written.validation, known)
    body = _request(spec, submission, plan, training, validation)
    headers = {"Idempotency-Key": mark_of(submission.key)}
    try:
        # The client's own second try would make a second job where the first answer was lost.
        return client.with_options(max_retries=0).fine_tuning.jobs.create(**body, extra_headers=headers)
    except (openai.APIConnectionError, openai.InternalServerError):
        job = _find(client, submission.key)
        if job is None:
            raise
        return job
    except openai.APIStatusError as error:
        if error.status_code not in (408, 409, 429):
            for identifier in filter(None, (training, validation)):
                with suppress(openai.OpenAIError):
                    client.files.delete(identifier)
        raise


def _request(
    spec: OpenAi, submission: Submission, plan: Allowed, training: str, validation: str | None
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": spec.model,
        "training_file": training,
        "method": plan.field,
        "seed": submission.recipe.train.seed,
        "metadata": {KEY_FIELD: mark_of(submission.key), RUN_FIELD: submission.name},
    }
    if validation is not None:
        body["validation_file"] = validation
    if spec.suffix is not None:
        body["suffix"] = spec.suffix
    if spec.training_type is not None:
        body["extra_body"] = {"trainingType": spec.training_type}
    return body


def _find(client: Any, key: str) -> Any:
    """The job of a submission, by its metadata or by its file; None where there is none."""
    import openai

    mark = mark_of(key)
    # Some services know no such filter, and some keep no metadata.
    with suppress(openai.BadRequestError):
        for job in client.fine_tuning.jobs.list(limit=_PAGE, metadata={KEY_FIELD: mark}):
            if (job.metadata or {}).get(KEY_FIELD) == mark:
                return job
    files = {file.id for file in known_files(client, key).values()}
    if not files:
        return None
    return next((job for job in client.fine_tuning.jobs.list(limit=_PAGE) if job.training_file in files), None)


def _job(client: Any, handle: Handle) -> Any:
    """The job as the service has it; None where it has none of that id."""
    import openai

    try:
        return client.fine_tuning.jobs.retrieve(handle["job"])
    except openai.NotFoundError:
        return None


def _few(written: Written) -> tuple[str, ...]:
    if written.training_rows >= FEWEST_ROWS:
        return ()
    return (f"{written.training_rows} rows train; many services refuse fewer than {FEWEST_ROWS}",)
