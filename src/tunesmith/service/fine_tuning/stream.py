"""A job as it goes: its events as they come, for pages. A stream that broke off goes on behind its last event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from tunesmith.service.context import Context
from tunesmith.service.db.tables.jobs import JOB_EVENTS, JOBS
from tunesmith.service.fine_tuning.schema import event_json, job_json
from tunesmith.service.fine_tuning.states import TERMINAL

_EVERY_SECONDS = 1.0
_QUIET_TURNS = 15
_MOST_AT_ONCE = 500


async def stream_job(context: Context, project_id: str, job_id: str, after: str | None) -> AsyncIterator[bytes]:
    """Server-sent events: ``job`` where the job has changed, ``event`` for each of its events, ``done`` at the end.

    Args:
        context: The service.
        project_id: Whose job it is.
        job_id: Which.
        after: The last event that the reader has; None: from the beginning.
    """
    last_job: dict[str, Any] | None = None
    quiet = 0
    while True:
        found = await run_in_threadpool(_read, context, project_id, job_id, after)
        if found is None:
            return
        job, events = found
        quiet = 0 if events or job != last_job else quiet + 1
        for event in events:
            after = event["id"]
            yield _piece("event", event, after)
        if job != last_job:
            yield _piece("job", job)
            last_job = job
        if job["status"] in TERMINAL and not events:
            yield _piece("done", {"status": job["status"]})
            return
        if quiet and quiet % _QUIET_TURNS == 0:
            # Proxies close what is silent.
            yield b": still there\n\n"
        if not events:
            await asyncio.sleep(_EVERY_SECONDS)


def _read(
    context: Context, project_id: str, job_id: str, after: str | None
) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    with context.database.read() as connection:
        row = connection.execute(select(JOBS).where(JOBS.c.id == job_id, JOBS.c.project_id == project_id)).first()
        if row is None:
            return None
        query = select(JOB_EVENTS).where(JOB_EVENTS.c.job_id == job_id)
        if after is not None:
            query = query.where(JOB_EVENTS.c.id > after)
        events = connection.execute(query.order_by(JOB_EVENTS.c.id).limit(_MOST_AT_ONCE)).all()
    return job_json(row, context.settings.organization), [event_json(event) for event in events]


def _piece(kind: str, data: dict[str, Any], name: str | None = None) -> bytes:
    head = b"" if name is None else f"id: {name}\n".encode()
    return head + f"event: {kind}\ndata: ".encode() + orjson.dumps(data) + b"\n\n"
