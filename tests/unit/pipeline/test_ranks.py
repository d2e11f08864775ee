"""Which of several errors is told, where ranks end one after the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.errors import ResourceError, WorkerError
from tunesmith.pipeline import ranks
from tunesmith.pipeline.ranks import RankJob, joined_ranks, write_error


def ended(*codes: int) -> list[tuple[int, subprocess.Popen[bytes]]]:
    processes = [subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"]) for code in codes]
    for process in processes:
        process.wait()
    return list(enumerate(processes, start=1))


def test_the_rank_that_knows_what_happened_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = WorkerError("the connection was closed", code="worker.unexpected")
    write_error(tmp_path, 1, broken)
    write_error(tmp_path, 2, ResourceError("not enough memory", code="resource.memory"))
    others = ranks.Ranks(tmp_path)
    monkeypatch.setattr(others, "_processes", ended(1, 1, 0))
    found = others.error()
    assert found is not None
    assert found.code == "resource.memory"
    monkeypatch.setattr(others, "_processes", ended(1, 0))
    found = others.error()
    assert found is not None
    assert found.code == "worker.unexpected"


def test_one_device_needs_nobody(tmp_path: Path) -> None:
    def say(error: Exception) -> None:
        raise error

    with joined_ranks(tmp_path, RankJob(1, ()), on_stuck=say, should_stop=lambda: False) as strategy:
        assert strategy.group.world_size == 1
    assert not list(tmp_path.iterdir())
