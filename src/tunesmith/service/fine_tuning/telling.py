"""Events of a job, in the words that OpenAI's service uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, insert, select

from tunesmith.service.db.tables.jobs import JOB_EVENTS
from tunesmith.service.ids import new_id

_MOST_LETTERS = 2048


@dataclass(frozen=True)
class Line:
    """One event.

    ``source`` names what it was made from, where that may be read twice: the second time writes nothing.
    """

    message: str
    level: Literal["info", "warn", "error"] = "info"
    data: Mapping[str, Any] | None = None
    source: str | None = None
    metrics: bool = False


def say(connection: Connection, job_id: str, line: Line, now: float) -> None:
    """Write an event of a job, unless one of the same source is there.

    Args:
        connection: Of a transaction that writes, whose writer holds the job's row.
        job_id: Of which job.
        line: What happened.
        now: When.
    """
    if line.source is not None:
        known = select(JOB_EVENTS.c.id).where(JOB_EVENTS.c.job_id == job_id, JOB_EVENTS.c.source == line.source)
        if connection.execute(known).first() is not None:
            return
    connection.execute(
        insert(JOB_EVENTS).values(
            id=new_id("ftevent-"),
            job_id=job_id,
            created_at=now,
            level=line.level,
            type="metrics" if line.metrics else "message",
            message=line.message[:_MOST_LETTERS],
            data=None if line.data is None else dict(line.data),
            source=line.source,
        )
    )
