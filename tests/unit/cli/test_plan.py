"""The command `tunesmith plan` in this process, with a worker that follows a plan: what a probe teaches."""

from __future__ import annotations

import json
from dataclasses import asdict

import fake_worker
import pytest
from example_report import make_report

from tunesmith.catalog.cache import machine_file
from tunesmith.executors.local import worker as local
from tunesmith.recipe.facts import HostFacts
from tunesmith.runs.atomic import write_json


@pytest.fixture
def probing(tunesmith, tmp_path, monkeypatch):
    """A probe of so many steps, for a model that is not here, on a machine that was measured."""
    monkeypatch.setattr(local, "WORKER_COMMAND", fake_worker.COMMAND)
    monkeypatch.setenv("FAKE_PLAN", str(tmp_path / "plan.json"))
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    machine_file().parent.mkdir(parents=True)
    write_json(machine_file(), asdict(HostFacts(cores=2, memory_bytes=24 * 10**9, matmul_flops_per_second=2e11)))
    (tmp_path / "rows.csv").write_text(
        "text,label\n" + "".join(f"row {number},a\nrow {number},b\n" for number in range(40))
    )

    def call(steps: int):
        train = [["write", "report.json", make_report(rows=40, steps=steps)]]
        (tmp_path / "plan.json").write_text(json.dumps({"train": train}))
        return tunesmith("plan", "--probe", "--model", "smollm2-135m-instruct", "--data", "rows.csv")

    return call


def test_a_probe_too_short_to_teach_anything_says_so(probing) -> None:
    answer = probing(4)
    assert answer.code == 0, answer.err
    assert "4 steps were tried, and of fewer than 5 a plan learns nothing" in answer.err
    assert "learns nothing" not in probing(5).err
