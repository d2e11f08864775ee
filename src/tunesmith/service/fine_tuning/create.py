"""A job is made: everything that can be refused is refused first, with the parameter that it is about."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select

from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.errors import ApiError, unsupported
from tunesmith.service.fine_tuning.examine import Examined, Files, Question, cost_of, examine
from tunesmith.service.fine_tuning.mapping import plain_recipe
from tunesmith.service.fine_tuning.options import DRY_RUN, EXACT, PREVIEW, flag
from tunesmith.service.fine_tuning.schema import CreateJob, job_json
from tunesmith.service.fine_tuning.states import Reason, State, Wish
from tunesmith.service.fine_tuning.telling import Line, say
from tunesmith.service.ids import new_id
from tunesmith.service.shared.files import find_file, local_copy
from tunesmith.service.shared.metering import require_budget
from tunesmith.service.shared.naming import Named, require_model
from tunesmith.service.shared.once import Keep
from tunesmith.service.shared.telling import note_action, tell

# Larger files are looked at by the dispatcher, while the job waits.
READ_AT_ONCE_BYTES = 16 * 2**20
_IDLE_TYPES = ("developer", "developertier")
_MOST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Asked:
    """A request whose model and files are there."""

    wanted: CreateJob
    named: Named
    training: Row[Any]
    validation: Row[Any] | None
    seed: int
    plain: dict[str, Any]

    @property
    def question(self) -> Question:
        """What is asked of the files."""
        return Question(self.named.base, self.wanted.kind, self.plain, self.wanted.numbers.model_dump())

    @property
    def is_small(self) -> bool:
        """Whether its files are read while the client waits."""
        size: int = self.training.bytes + (0 if self.validation is None else self.validation.bytes)
        return size <= READ_AT_ONCE_BYTES


def look_up(context: Context, caller: Caller, wanted: CreateJob) -> Asked:
    """Find what a request names.

    Raises:
        ApiError: The method or an integration is not supported; the model or a file is not there or not theirs; an
            option is unknown; the budget is spent.
    """
    if wanted.kind == "reinforcement":
        raise unsupported("The fine-tuning method reinforcement")
    _require_one_method(wanted)
    if wanted.integrations:
        raise ApiError(
            400,
            "Integrations are not supported: their secrets cannot be given to this service; metrics are in the job's "
            "events and its result file",
            code="unsupported_integration",
            param="integrations",
        )
    flag(wanted.tunesmith, DRY_RUN), flag(wanted.tunesmith, EXACT), flag(wanted.tunesmith, PREVIEW)
    with context.database.read() as connection:
        named = require_model(context, connection, caller, wanted.model, use="tune")
        training = find_file(
            connection, caller.project_id, wanted.training_file, purpose="fine-tune", param="training_file"
        )
        validation = None
        if wanted.validation_file is not None:
            validation = find_file(
                connection, caller.project_id, wanted.validation_file, purpose="fine-tune", param="validation_file"
            )
        require_budget(context, connection, caller.project_id)
    seed = secrets.randbelow(_MOST_SEED) if wanted.seed is None else wanted.seed
    plain = plain_recipe(wanted, seed)
    plain["model"] = named.address or named.base
    return Asked(wanted, named, training, validation, seed, plain)


def _require_one_method(wanted: CreateJob) -> None:
    """Nothing that was asked for is left out: neither settings of another method, nor numbers that are given twice."""
    method = wanted.method
    if method is None:
        return
    for other in ("supervised", "dpo", "reinforcement"):
        if other != method.type and getattr(method, other) is not None:
            raise ApiError(
                400,
                f"The method is {method.type}: leave out the settings of {other}",
                code="invalid_value",
                param=f"method.{other}",
            )
    beside, numbers = wanted.hyperparameters, wanted.numbers.model_dump(exclude={"beta"})
    if beside is not None and beside.model_dump() != numbers:
        raise ApiError(
            400,
            "Hyperparameters are in the method and beside it, and differ: leave out those beside it",
            code="invalid_value",
            param="hyperparameters",
        )


def look_at(context: Context, asked: Asked) -> Examined:
    """Look at the files of a request; errors as of :func:`tunesmith.service.fine_tuning.examine.examine`."""
    with files_of(context, asked.training, asked.validation) as files:
        return examine(context, asked.question, files)


@contextmanager
def files_of(context: Context, training: Row[Any], validation: Row[Any] | None) -> Iterator[Files]:
    """Files of the storage as files of this machine, while the block lasts."""
    with ExitStack() as stack:
        paths = [
            stack.enter_context(local_copy(context, row.place, suffix_of(row.filename)))
            for row in (training, validation)
            if row is not None
        ]
        yield Files(*paths)


def suffix_of(filename: str) -> str:
    """The ending of a file's name, which says what kind of file it is."""
    return PurePath(filename).suffix.lower() or ".jsonl"


def keep_job(context: Context, caller: Caller, asked: Asked, examined: Examined | None, keep: Keep) -> dict[str, Any]:
    """Write a job down together with the answer that tells of it; it waits for its turn.

    Large files are looked at while it does.

    Raises:
        ApiError: 429: too many of the project's jobs wait, or its budget does not allow this one.
    """
    wanted, now, job_id = asked.wanted, context.now(), new_id("ftjob-")
    numbers = wanted.numbers.model_dump() if examined is None else examined.hyperparameters
    row = {
        "id": job_id,
        "project_id": caller.project_id,
        "created_at": now,
        "created_by": caller.name,
        "model": asked.named.name,
        "base": asked.named.base,
        "suffix": wanted.suffix,
        "training_file": wanted.training_file,
        "validation_file": wanted.validation_file,
        "seed": asked.seed,
        "method": {"type": wanted.kind},
        "hyperparameters": numbers,
        "metadata": wanted.metadata,
        "options": {**wanted.tunesmith, **({"trainingType": wanted.trainingType} if wanted.trainingType else {})},
        "recipe": asked.plain if examined is None else examined.plain,
        "estimate": None if examined is None else short_estimate(examined),
        "state": State.VALIDATING if examined is None else State.QUEUED,
        "reason": Reason.CREATED if examined is None else Reason.FILES_VALID,
        "wish": Wish.RUN,
        "priority": _priority(wanted.trainingType),
        "result_files": [],
        "trained_tokens": 0,
    }
    with context.database.write() as connection:
        _require_room(context, connection, caller.project_id)
        if examined is not None:
            coming = cost_of(context, asked.named.base, examined.tokens)
            require_budget(context, connection, caller.project_id, coming)
        connection.execute(insert(JOBS).values(**row))
        for line in first_lines(job_id, wanted, is_valid=examined is not None):
            say(connection, job_id, line, now)
        note_action(context, connection, caller, "job.create", target=job_id, detail={"model": asked.named.name})
        tell(context, connection, caller.project_id, "fine_tuning.job.created", {"id": job_id})
        kept = connection.execute(select(JOBS).where(JOBS.c.id == job_id)).one()
        answer = job_json(kept, context.settings.organization)
        keep(connection, answer)
    return answer


def short_estimate(examined: Examined) -> dict[str, Any]:
    """What a job remembers of what was expected of it."""
    data = examined.known.data
    return {"rows": data.rows, "tokens": examined.tokens, "steps": examined.steps, "epochs": examined.resolved.epochs}


VALID = Line("Files validated, moving job to queued state", source="valid")


def first_lines(job_id: str, wanted: CreateJob, *, is_valid: bool) -> list[Line]:
    """What is told of a new job."""
    files = wanted.training_file
    if wanted.validation_file is not None:
        files += f" and validation file: {wanted.validation_file}"
    lines = [
        Line(f"Created fine-tuning job: {job_id}", source="created"),
        Line(f"Validating training file: {files}", source="validating"),
    ]
    return [*lines, VALID] if is_valid else lines


def _require_room(context: Context, connection: Connection, project_id: str) -> None:
    most = context.settings.limits.jobs_waiting
    waiting = (State.VALIDATING, State.QUEUED)
    count = select(func.count()).where(JOBS.c.project_id == project_id, JOBS.c.state.in_(waiting))
    if connection.execute(count).scalar_one() >= most:
        raise ApiError(
            429,
            f"{most} fine-tuning jobs of this project wait already; try again when some have ended, or cancel some",
            code="too_many_jobs",
            retry=False,
        )


def _priority(training_type: str | None) -> int:
    """Azure's developer tier takes what nobody else wants."""
    return -1 if training_type is not None and training_type.lower() in _IDLE_TYPES else 0
