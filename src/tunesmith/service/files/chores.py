"""What goes by itself: expired files, bytes of deleted ones, leftovers of what was killed, answers to old requests."""

from __future__ import annotations

import logging
import shutil

from sqlalchemy import delete, or_, select, update

from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import DELETED_WORK, PROJECTS
from tunesmith.service.db.tables.evaluations import EVALUATIONS
from tunesmith.service.db.tables.files import FILES, UPLOAD_PARTS
from tunesmith.service.db.tables.inference import BATCHES
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.shared.chores import Chore
from tunesmith.service.shared.files import FILE_FOLDER, UPLOAD_FOLDER
from tunesmith.service.shared.once import forget_old_answers

_log = logging.getLogger(__name__)
_DAY_SECONDS = 86_400.0
# A job that is being made while its file is deleted has its row by then.
_GRACE_SECONDS = 600.0
_JOB_ENDS = ("succeeded", "failed", "cancelled")
_BATCH_ENDS = ("failed", "completed", "expired", "cancelled")
_AT_ONCE = 200


def expire_files(context: Context) -> None:
    """Delete files whose time has come, and those older than their project or the service keeps files."""
    now = context.now()
    of_service = context.settings.file_retention_days
    with context.database.write() as connection:
        live = update(FILES).where(FILES.c.deleted_at.is_(None)).values(deleted_at=now)
        connection.execute(live.where(FILES.c.expires_at <= now))
        for project in connection.execute(select(PROJECTS.c.id, PROJECTS.c.retention_days)).all():
            days = [one for one in (of_service, project.retention_days) if one is not None]
            if days:
                old = FILES.c.created_at <= now - min(days) * _DAY_SECONDS
                connection.execute(live.where(FILES.c.project_id == project.id, old))


def remove_deleted_bytes(context: Context) -> None:
    """Remove bytes and rows of deleted files that no job, batch or evaluation needs any more."""
    for name, place in _unneeded(context):
        # The row goes last: a process that is killed here does it again.
        context.storage.remove(place)
        with context.database.write() as connection:
            connection.execute(delete(FILES).where(FILES.c.id == name))


def remove_scratch(context: Context) -> None:
    """Remove what killed processes left on this machine; a day old, nobody writes it any more."""
    oldest = context.now() - _DAY_SECONDS
    for path in context.scratch.iterdir():
        try:
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            _log.warning("a leftover cannot be removed: %s: %s", path.name, error.strerror)


def remove_batches_scratch(context: Context) -> None:
    """Remove answers of batches that have ended, or whose project was deleted, from this machine."""
    names = [path.name for path in context.scratch.glob("batch_*")]
    for some in (names[at : at + _AT_ONCE] for at in range(0, len(names), _AT_ONCE)):
        ended = select(BATCHES.c.id).where(BATCHES.c.id.in_(some), BATCHES.c.state.in_(_BATCH_ENDS))
        deleted = select(DELETED_WORK.c.id).where(DELETED_WORK.c.id.in_(some))
        with context.database.read() as connection:
            over = [name for query in (ended, deleted) for name in connection.execute(query).scalars()]
        for name in over:
            shutil.rmtree(context.scratch / name, ignore_errors=True)


def remove_unnamed_bytes(context: Context) -> None:
    """Remove objects of the storage that no row names: of a process that was killed between the two."""
    oldest = context.now() - _DAY_SECONDS
    for project in context.storage.names("projects"):
        for folder in (FILE_FOLDER, UPLOAD_FOLDER):
            for found in context.storage.walk(f"projects/{project}/{folder}"):
                if found.written is None or found.written.timestamp() >= oldest:
                    continue
                if not _is_named(context, found.path):
                    context.storage.remove(found.path)


def _unneeded(context: Context) -> list[tuple[str, str]]:
    jobs = select(JOBS.c.id).where(
        JOBS.c.project_id == FILES.c.project_id,
        JOBS.c.state.not_in(_JOB_ENDS),
        or_(JOBS.c.training_file == FILES.c.id, JOBS.c.validation_file == FILES.c.id),
    )
    batches = select(BATCHES.c.id).where(
        BATCHES.c.project_id == FILES.c.project_id,
        BATCHES.c.state.not_in(_BATCH_ENDS),
        BATCHES.c.input_file_id == FILES.c.id,
    )
    evaluations = select(EVALUATIONS.c.id).where(
        EVALUATIONS.c.project_id == FILES.c.project_id,
        EVALUATIONS.c.state.not_in(_JOB_ENDS),
        EVALUATIONS.c.file_id == FILES.c.id,
    )
    needed = (jobs.exists(), batches.exists(), evaluations.exists())
    found = (
        select(FILES.c.id, FILES.c.place)
        .where(FILES.c.deleted_at <= context.now() - _GRACE_SECONDS, *(~one for one in needed))
        .limit(_AT_ONCE)
    )
    with context.database.read() as connection:
        return [(row.id, row.place) for row in connection.execute(found)]


def _is_named(context: Context, place: str) -> bool:
    with context.database.read() as connection:
        return any(
            connection.execute(select(table.c.id).where(table.c.place == place).limit(1)).first() is not None
            for table in (FILES, UPLOAD_PARTS)
        )


CHORES: tuple[Chore, ...] = (
    Chore("files.expire", 60.0, expire_files),
    Chore("files.remove_deleted", 60.0, remove_deleted_bytes),
    Chore("files.remove_scratch", 3600.0, remove_scratch),
    Chore("batches.remove_scratch", 60.0, remove_batches_scratch),
    Chore("files.remove_unnamed", 6 * 3600.0, remove_unnamed_bytes),
    Chore("requests.forget", 600.0, forget_old_answers),
)
