"""How the whole service stands, read from the database when somebody asks: the same in each of its processes."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Column, Connection, Table, func, select

from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.evaluations import EVALUATIONS
from tunesmith.service.db.tables.files import FILES
from tunesmith.service.db.tables.inference import BATCHES, ENGINES
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.db.tables.keeping import DELIVERIES

_JOB_STATES = ("validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled")
_BY_STATE = (
    ("tunesmith_engines", "Processes that answer, by state", ENGINES),
    ("tunesmith_batches", "Batches by state", BATCHES),
    ("tunesmith_evaluations", "Evaluations by state", EVALUATIONS),
    ("tunesmith_webhook_deliveries", "Events for webhooks by state", DELIVERIES),
)


class Gauges(Collector):
    """Numbers of the database.

    Args:
        context: The service.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read them."""
        with self._context.database.read() as connection:
            yield from [*self._of_jobs(connection), *self._of_states(connection), *self._of_files(connection)]

    def _of_jobs(self, connection: Connection) -> Iterator[GaugeMetricFamily]:
        counts = dict.fromkeys(_JOB_STATES, 0) | _counts(connection, JOBS, JOBS.c.state)
        yield _by_state("tunesmith_jobs", "Jobs by state", counts)
        oldest = select(func.min(JOBS.c.created_at)).where(JOBS.c.state == "queued")
        since = connection.execute(oldest).scalar_one()
        age = 0.0 if since is None else max(0.0, self._context.now() - since)
        yield _one("tunesmith_queue_age_seconds", "Seconds that the oldest queued job has waited", age)

    def _of_states(self, connection: Connection) -> Iterator[GaugeMetricFamily]:
        for name, text, table in _BY_STATE:
            yield _by_state(name, text, _counts(connection, table, table.c.state))

    def _of_files(self, connection: Connection) -> Iterator[GaugeMetricFamily]:
        total = select(func.coalesce(func.sum(FILES.c.bytes), 0)).where(FILES.c.deleted_at.is_(None))
        yield _one("tunesmith_stored_bytes", "Bytes of all files", float(connection.execute(total).scalar_one()))
        projects = select(func.count()).select_from(PROJECTS).where(PROJECTS.c.archived_at.is_(None))
        yield _one("tunesmith_projects", "Projects that are open", float(connection.execute(projects).scalar_one()))


def _counts(connection: Connection, table: Table, state: Column[str]) -> dict[str, int]:
    found = select(state.label("state"), func.count().label("number")).select_from(table).group_by(state)
    return {row.state: row.number for row in connection.execute(found)}


def _by_state(name: str, text: str, counts: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=["state"])
    for state, number in sorted(counts.items()):
        family.add_metric([state], number)
    return family


def _one(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
