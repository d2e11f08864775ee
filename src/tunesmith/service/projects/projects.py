"""Making, changing and removing projects, and what they use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, delete, func, insert, select, update

from tunesmith.service.auth.caller import Caller
from tunesmith.service.auth.gate import DEFAULT_PROJECT
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import DELETED_PROJECTS, DELETED_WORK, PROJECTS
from tunesmith.service.db.tables.evaluations import EVALUATIONS
from tunesmith.service.db.tables.inference import BATCHES
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.errors import ApiError, not_found
from tunesmith.service.ids import new_id
from tunesmith.service.shared.files import remove_below
from tunesmith.service.shared.metering import month_of, spent, stored_bytes
from tunesmith.service.shared.naming import offered
from tunesmith.service.shared.telling import note_action
from tunesmith.service.shared.versions import let_go_of_jobs

# What a project's own administrators decide; the rest costs whoever runs the service.
OF_OWNERS = frozenset({"name", "budget_action", "retention_days"})
_ENDED = ("succeeded", "failed", "cancelled")
_ENDED_BATCHES = ("failed", "completed", "expired", "cancelled")


def projects_of(caller: Caller) -> Select[Any]:
    """All projects that a caller may see."""
    query = select(PROJECTS)
    return query if caller.is_operator else query.where(PROJECTS.c.id == caller.project_id)


def find_project(connection: Connection, caller: Caller, project_id: str) -> Row[Any]:
    """A project that the caller may see.

    Raises:
        ApiError: 404: there is none, or it is not theirs.
    """
    row = connection.execute(projects_of(caller).where(PROJECTS.c.id == project_id)).first()
    if row is None:
        raise not_found("project", project_id, "project_id")
    return row


def create_project(context: Context, caller: Caller, values: Mapping[str, Any]) -> Row[Any]:
    """Make a project.

    Raises:
        ApiError: 409: there is one of that name.
    """
    _require_offered(context, values)
    name = new_id("proj_")
    with context.database.write() as connection:
        _require_free_name(connection, values["name"], name)
        connection.execute(insert(PROJECTS).values(id=name, created_at=context.now(), **values))
        note_action(context, connection, caller, "project.create", target=name, detail=values, project_id=name)
        return find_project(connection, caller, name)


def change_project(context: Context, caller: Caller, project_id: str, values: Mapping[str, Any]) -> Row[Any]:
    """Change a project; whoever does not run the service may change part of it.

    Raises:
        ApiError: 403: this is not theirs to decide; 404; 409: there is another one of that name.
    """
    beyond = sorted(set(values) - OF_OWNERS)
    _require_offered(context, values)
    with context.database.write() as connection:
        row = find_project(connection, caller, project_id)
        if beyond and not caller.is_operator:
            raise ApiError(
                403,
                f"Only whoever runs the service changes {', '.join(beyond)}",
                code="insufficient_permissions",
                param=beyond[0],
            )
        if "name" in values:
            _require_free_name(connection, values["name"], project_id)
            if row.name == DEFAULT_PROJECT and values["name"] != DEFAULT_PROJECT:
                raise ApiError(409, "The default project keeps its name", code="default_project", param="name")
        if values:
            connection.execute(update(PROJECTS).where(PROJECTS.c.id == project_id).values(**values))
            _note(context, connection, caller, "project.update", row, detail=values)
        return find_project(connection, caller, project_id)


def archive_project(context: Context, caller: Caller, project_id: str, *, archived: bool) -> Row[Any]:
    """Close a project: its keys are good for nothing and nothing of it is lost. Or open it again.

    Raises:
        ApiError: 404; 409: it is the default project, or jobs, batches or evaluations of it have not ended.
    """
    with context.database.write() as connection:
        row = find_project(connection, caller, project_id)
        if archived:
            _require_closable(connection, row)
        moment = context.now() if archived else None
        connection.execute(update(PROJECTS).where(PROJECTS.c.id == project_id).values(archived_at=moment))
        _note(context, connection, caller, "project.archive" if archived else "project.restore", row)
        return find_project(connection, caller, project_id)


def delete_project(context: Context, caller: Caller, project_id: str) -> None:
    """Remove an archived project with all that is its own. Its lines of the audit log stay, and so does its use.

    What the storage has goes first: ended in between, the project is still there to be deleted again. What machines
    have in their data folders, each removes by itself: runs, inputs, answers of batches.

    Raises:
        ApiError: 404; 409: it is not archived.
        OutputError, NetworkError: The storage cannot be written.
    """
    with context.database.read() as connection:
        row = find_project(connection, caller, project_id)
        if row.archived_at is None:
            raise ApiError(409, "Archive the project before it is deleted", code="not_archived")
        _require_closable(connection, row)
        jobs, batches = (_work_of(connection, table, project_id) for table in (JOBS, BATCHES))
    let_go_of_jobs(context, jobs)
    for place in (f"projects/{project_id}", *(f"runs/{job_id}" for job_id in jobs)):
        remove_below(context.storage, place)
    with context.database.write() as connection:
        archived = PROJECTS.c.archived_at.is_not(None)
        gone = connection.execute(delete(PROJECTS).where(PROJECTS.c.id == project_id, archived))
        if gone.rowcount == 0:
            # Somebody else was faster, or has opened it again.
            raise ApiError(409, "The project was changed meanwhile; try again", code="conflict")
        now = context.now()
        connection.execute(insert(DELETED_PROJECTS).values(id=project_id, name=row.name, deleted_at=now))
        work = [{"id": name, "deleted_at": now} for name in (*jobs, *batches)]
        if work:
            connection.execute(insert(DELETED_WORK), work)
        _note(context, connection, caller, "project.delete", row)


def _work_of(connection: Connection, table: Table, project_id: str) -> list[str]:
    """All jobs, or all batches, of a project."""
    return list(connection.execute(select(table.c.id).where(table.c.project_id == project_id)).scalars())


def use_of(context: Context, connection: Connection, row: Row[Any]) -> dict[str, Any]:
    """What a project uses now: jobs, bytes, money of this month."""
    states = select(JOBS.c.state, func.count()).where(JOBS.c.project_id == row.id).group_by(JOBS.c.state)
    jobs = {state: count for state, count in connection.execute(states) if state not in _ENDED}
    return {
        "jobs_running": jobs.get("running", 0),
        "jobs_waiting": sum(jobs.values()) - jobs.get("running", 0) - jobs.get("paused", 0),
        "jobs_paused": jobs.get("paused", 0),
        "storage_bytes": stored_bytes(connection, row.id),
        "spent_this_month": spent(connection, row.id, month_of(context.now())),
        "currency": context.settings.currency,
    }


def _require_offered(context: Context, values: Mapping[str, Any]) -> None:
    unknown = [name for name in values.get("allowed_models") or [] if name not in offered(context)]
    if unknown:
        raise ApiError(
            400,
            f"The service does not offer {', '.join(unknown)}",
            code="model_not_found",
            param="allowed_models",
        )


def _require_free_name(connection: Connection, name: str, project_id: str) -> None:
    taken = select(PROJECTS.c.id).where(PROJECTS.c.name == name, PROJECTS.c.id != project_id)
    if connection.execute(taken).first() is not None:
        raise ApiError(409, f"There is a project {name} already", code="name_taken", param="name")


def _require_closable(connection: Connection, row: Row[Any]) -> None:
    if row.name == DEFAULT_PROJECT:
        raise ApiError(409, "The default project cannot be closed", code="default_project")
    open_jobs = select(JOBS.c.id).where(JOBS.c.project_id == row.id, JOBS.c.state.not_in(_ENDED)).limit(1)
    if connection.execute(open_jobs).first() is not None:
        raise ApiError(409, "Jobs of the project have not ended; cancel them first", code="jobs_open")
    asking = (BATCHES.c.project_id == row.id) & BATCHES.c.state.not_in(_ENDED_BATCHES)
    if connection.execute(select(BATCHES.c.id).where(asking).limit(1)).first() is not None:
        raise ApiError(409, "Batches of the project have not ended; cancel them first", code="batches_open")
    measuring = (EVALUATIONS.c.project_id == row.id) & EVALUATIONS.c.state.not_in(_ENDED)
    if connection.execute(select(EVALUATIONS.c.id).where(measuring).limit(1)).first() is not None:
        raise ApiError(409, "Evaluations of the project have not ended; cancel them first", code="evaluations_open")


def _note(
    context: Context,
    connection: Connection,
    caller: Caller,
    action: str,
    row: Row[Any],
    *,
    detail: Mapping[str, Any] | None = None,
) -> None:
    note_action(context, connection, caller, action, target=row.id, detail=detail, project_id=row.id)
