"""Parts of a service that are killed while jobs run: nothing is lost or done twice. By the benchmark's code."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from live_service import live_service
from service_site import DATABASES
from tiny_models import tiny_model_folder

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.service_faults import FAULTS, run_fault
from benchmarks.service_load import Load, run_load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder("llama", tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("fault", FAULTS)
def test_jobs_survive(tmp_path: Path, model: Path, fault: str, kind: str) -> None:
    if fault == "database" and kind == "sqlite":
        pytest.skip("SQLite has no server that could be restarted")
    if fault == "full disk" and (os.geteuid() != 0 or shutil.which("mount") is None):
        pytest.skip("a small disk can be mounted by root alone")
    assert run_fault(fault, tmp_path / "place", kind, model, jobs=2)["lost"] == []


def test_the_load_of_the_benchmark(tmp_path: Path, model: Path) -> None:
    with live_service(tmp_path, "--models", f"tiny={model}", "--api-processes", "2") as service:
        found = run_load(service, Load(jobs=20, clients=8, upload_bytes=24 * 2**20, seconds=3.0))
    assert found["lost"] == []
    assert found["routes"]["GET /v1/fine_tuning/jobs"]["count"] > 0
    assert found["streamed_events"] > 0
    # Files go through the process piece by piece.
    assert max(found["memory_grown_by_upload_mib"].values()) < 24
