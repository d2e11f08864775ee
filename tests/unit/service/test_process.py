"""A process of the service: all of its work ends together, and it refuses tables that are not its own."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from service_site import make_site

from tunesmith.errors import UsageError, WorkerError
from tunesmith.service.context import Context
from tunesmith.service.process import open_current, run_together


def test_the_end_of_one_is_the_end_of_all(tmp_path: Path) -> None:
    context, ended = make_site(tmp_path).context, []

    def waits(_: Context, stop: threading.Event) -> None:
        assert stop.wait(20)
        ended.append("waits")

    def fails(_: Context, stop: threading.Event) -> None:
        raise OSError("gone")

    with pytest.raises(WorkerError, match="a part of the process failed"):
        run_together([waits, fails], context, threading.Event())
    stop = threading.Event()
    stop.set()
    run_together([waits, waits], context, stop)
    assert ended == ["waits"] * 3
    context.database.close()


def test_tables_of_another_version_are_refused(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    open_current(site.context.settings).database.close()
    with site.context.database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(UsageError, match="tunesmith service migrate"):
        open_current(site.context.settings)
    site.context.database.close()
