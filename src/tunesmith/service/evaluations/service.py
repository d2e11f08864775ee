"""Evaluations as requests see them: asked for, looked at, cancelled, deleted."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select

from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.db.tables.evaluations import EVALUATIONS
from tunesmith.service.errors import ApiError, not_found
from tunesmith.service.evaluations.examine import READ_AT_ONCE_BYTES, require_rows, rows_of
from tunesmith.service.evaluations.reports import remove_reports
from tunesmith.service.evaluations.schema import ENDED, CreateEvaluation, shown
from tunesmith.service.evaluations.states import cancel_now
from tunesmith.service.ids import new_id
from tunesmith.service.shared.choosing import find_deployment
from tunesmith.service.shared.files import find_file
from tunesmith.service.shared.metering import require_budget
from tunesmith.service.shared.naming import Named, require_model
from tunesmith.service.shared.once import Keep
from tunesmith.service.shared.telling import note_action


def create(context: Context, caller: Caller, asked: CreateEvaluation, keep: Keep) -> dict[str, Any]:
    """Take an evaluation, and keep the answer that tells of it; it waits for its turn.

    Rows of a large file are looked at when that comes.

    Raises:
        ApiError: 400, 403 or 404: the model or the file cannot be used; 429: the budget is spent, or too many of the
            project's evaluations wait.
    """
    with context.database.read() as connection:
        named = _measured(context, connection, caller, asked.model)
        file = find_file(connection, caller.project_id, asked.file, param="file")
        require_budget(context, connection, caller.project_id)
    if asked.multiple_choice and file.bytes > READ_AT_ONCE_BYTES:
        # They are read whole.
        raise ApiError(
            400,
            f"The file has {file.bytes} bytes; one with questions and choices has at most {READ_AT_ONCE_BYTES}",
            code="file_too_large",
            param="file",
        )
    if file.bytes <= READ_AT_ONCE_BYTES:
        with rows_of(context, file) as rows:
            require_rows(rows, asked.options)
    name = new_id("eval_")
    row = {
        "id": name,
        "project_id": caller.project_id,
        "key_id": caller.key_id,
        "model": asked.model,
        "measured": named.name,
        "base": named.base,
        "file_id": file.id,
        "options": asked.options,
        "metadata": asked.metadata,
        "state": "queued",
        "tries": 0,
        "created_at": context.now(),
    }
    with context.database.write() as connection:
        _require_room(context, connection, caller.project_id)
        connection.execute(insert(EVALUATIONS).values(**row))
        note_action(context, connection, caller, "evaluation.create", target=name, detail={"model": named.name})
        answer = shown(find(connection, caller, name))
        keep(connection, answer)
    return answer


def find(connection: Connection, caller: Caller, name: str) -> Row[Any]:
    """An evaluation of the project.

    Raises:
        ApiError: 404.
    """
    query = select(EVALUATIONS).where(EVALUATIONS.c.id == name, EVALUATIONS.c.project_id == caller.project_id)
    row: Row[Any] | None = connection.execute(query).first()
    if row is None:
        raise not_found("evaluation", name, "evaluation_id")
    return row


def cancel(context: Context, caller: Caller, name: str) -> Row[Any]:
    """End an evaluation; whoever works for it hears of that and stops. Nothing of it is kept.

    Raises:
        ApiError: 404; 409: it has ended already.
    """
    with context.database.write() as connection:
        row = find(connection, caller, name)
        if not cancel_now(context, connection, row):
            state = find(connection, caller, name).state
            raise ApiError(
                409,
                f"Evaluation {name} is {state} and cannot be cancelled",
                code="evaluation_ended",
                retry=False,
            )
        note_action(context, connection, caller, "evaluation.cancel", target=name)
        return find(connection, caller, name)


def remove(context: Context, caller: Caller, name: str) -> dict[str, Any]:
    """Delete an evaluation that has ended, with its report.

    Raises:
        ApiError: 404; 409: it has not ended.
        OutputError, NetworkError: The storage cannot be written.
    """
    with context.database.read() as connection:
        row = find(connection, caller, name)
    if row.state not in ENDED:
        raise ApiError(
            409, f"Evaluation {name} is {row.state}; cancel it first", code="evaluation_not_ended", retry=False
        )
    # The row goes last: ended in between, the evaluation is still there to be deleted again.
    remove_reports(context, row.project_id, name)
    with context.database.write() as connection:
        if connection.execute(delete(EVALUATIONS).where(EVALUATIONS.c.id == name)).rowcount:
            note_action(context, connection, caller, "evaluation.delete", target=name)
    return {"id": name, "object": "evaluation", "deleted": True}


def _measured(context: Context, connection: Connection, caller: Caller, name: str) -> Named:
    """The one model that a name means: a base, a tuned model, a checkpoint, or what a deployment asks."""
    deployment = find_deployment(connection, caller.project_id, name)
    if deployment is None:
        return require_model(context, connection, caller, name)
    if len(deployment.traffic) != 1:
        raise ApiError(
            400,
            f"The deployment {name} shares its requests between {', '.join(deployment.traffic)}: name one of them",
            code="several_models",
            param="model",
        )
    return require_model(context, connection, caller, next(iter(deployment.traffic)))


def _require_room(context: Context, connection: Connection, project_id: str) -> None:
    most = context.settings.limits.jobs_waiting
    count = select(func.count()).where(EVALUATIONS.c.project_id == project_id, EVALUATIONS.c.state == "queued")
    if connection.execute(count).scalar_one() >= most:
        raise ApiError(
            429,
            f"{most} evaluations of this project wait already; try again when some have ended, or cancel some",
            code="too_many_evaluations",
            retry=False,
        )
