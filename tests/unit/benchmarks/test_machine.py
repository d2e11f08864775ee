"""What a benchmark says of its machine, and that no kept result is ever replaced."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks import machine
from benchmarks.levers import LEVERS
from benchmarks.peers.environments import versions_of
from benchmarks.training import SIDES, own_environment
from benchmarks.workloads import WORKLOADS
from tunesmith.executors.environment import ALLOCATOR, compute_environment
from tunesmith.runs.atomic import read_json


def test_a_second_result_of_a_day_stands_beside_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "RESULTS", tmp_path / "results")
    kept = [machine.keep("training", {"number": number}) for number in range(3)]
    assert len(set(kept)) == 3
    assert [read_json(path) for path in kept] == [{"number": number} for number in range(3)]
    assert all(path.name.endswith(f"-training-{machine.host_class()}.json") for path in kept)


def test_conditions_say_how_many_threads_there_were_and_what_the_processor_can() -> None:
    found = machine.conditions()
    assert found["threads"] == torch.get_num_threads()
    assert found["cores"] == os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        assert found["cores_allowed"] == len(os.sched_getaffinity(0))
    told = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    assert found["processor_flags"] == [
        flag for flag in machine.PROCESSOR_FLAGS if f" {flag} " in told.replace("\n", " ")
    ]


def test_ours_runs_where_the_launcher_would_let_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ALLOCATOR, "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tunesmith.executors.environment.core_limit", lambda: 3)
    assert own_environment(LEVERS["all levers"]) == compute_environment()
    as_it_comes = own_environment(LEVERS["allocator as it comes"])
    assert as_it_comes == {key: value for key, value in compute_environment().items() if key not in ALLOCATOR}
    assert as_it_comes["OMP_NUM_THREADS"] == "3"


def test_peers_have_versions_and_the_settings_of_their_tuned_sides() -> None:
    for name, side in SIDES.items():
        if side.peer is not None:
            assert {side.peer, "torch", "transformers", "peft"} <= versions_of(side.peer).keys(), name
        if side.peer == "llamafactory":
            assert side.settings["disable_gradient_checkpointing"] is True, name


def test_a_float32_peer_takes_the_rows_in_our_order_on_conversations_alone() -> None:
    side = SIDES["trl-float32-sequential"]
    assert side.settings["train_sampling_strategy"] == SIDES["trl-defaults"].settings["train_sampling_strategy"]
    assert [name for name, workload in WORKLOADS.items() if side.takes(workload)] == ["conversations"]
    assert [name for name, workload in WORKLOADS.items() if not SIDES["tunesmith-grouped"].takes(workload)] == ["pairs"]
