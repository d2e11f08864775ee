"""Executors for the contract suite: how each is reached in a test, and how its worker is killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tunesmith.catalog.cache import cache_folder
from tunesmith.jobs.submitted import Job
from tunesmith.runs.events import Event, read_events

PATIENCE_SECONDS = 240.0


@dataclass(frozen=True)
class Reached:
    """An executor that a test can submit to: the recipe's ``executor``, and where runs of its workers lie."""

    settings: dict[str, Any]
    storage: str | None
    kill_worker: Callable[[Job], None]


@contextmanager
def local(_folder: Path, _monkeypatch: pytest.MonkeyPatch) -> Iterator[Reached]:
    """The queue of this machine."""
    yield Reached({"name": "local", "threads": 1}, None, kill_on_this_machine)


@contextmanager
def ray(folder: Path, _monkeypatch: pytest.MonkeyPatch) -> Iterator[Reached]:
    """A cluster of one node, with runs in a folder that it sees too."""
    from ray_cluster import one_node

    mounted = (folder / "mounted").as_uri()
    yield Reached({"name": "ray", "address": one_node().dashboard}, mounted, kill_on_this_machine)


@contextmanager
def kubernetes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reached]:
    """A small API server on this machine, whose pods are processes here; runs lie on a claim that both see."""
    from fake_kubernetes import serve_kubernetes

    with serve_kubernetes(folder / "cluster", monkeypatch) as cluster:
        claim = folder / "claim"
        claim.mkdir()
        cluster.claims["runs"] = claim
        cluster.images["tunesmith:test"] = Path(sys.executable).parent
        cluster.image_variables = {"OMP_NUM_THREADS": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
        cluster.cache = cache_folder()
        # The worker has a secret too, and must not tell it.
        cluster.secrets["credentials"] = {"AWS_SECRET_ACCESS_KEY": os.environ.get("AWS_SECRET_ACCESS_KEY", "planted")}
        settings = {"image": "tunesmith:test", "claim": "runs", "mount_path": str(claim), "secret": "credentials"}
        yield Reached({"name": "kubernetes", **settings}, f"file://{claim}", kill_and_say_so)


# Every executor that takes our worker; a test sees to it that none is missing.
REACHED: dict[str, Callable[[Path, pytest.MonkeyPatch], Any]] = {"local": local, "kubernetes": kubernetes, "ray": ray}
# Those whose platform takes its time to start; their part of the suite is run by `make test-full`.
SLOW = frozenset({"kubernetes", "ray"})
# Those whose platform is not on this machine, and why; other tests hold what they send to the platform's own library.
NOT_REACHED: dict[str, str] = {
    "azureml": "its jobs run in a workspace of Azure: tests/unit/executors/test_azureml.py",
    "aca": "its jobs run in Azure: tests/unit/executors/test_aca.py, tests/integration/test_aca_training.py",
}


def kill_on_this_machine(job: Job) -> None:
    """Kill the worker of a job, wherever on this machine it is."""
    place = job.record["run"] or str(job.run.path)
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "tunesmith.worker" in words and place in words:
            os.kill(process.pid, signal.SIGKILL)


def kill_and_say_so(job: Job) -> None:
    """The same, for a run in a store: its silence is known only after a while, and nobody waits for it."""
    store = job.store
    assert store is not None
    attempt = store.last_attempt()
    assert attempt is not None
    kill_on_this_machine(job)
    store.end(attempt.number, 137)


def until(found: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """What is there as soon as something is."""
    end = time.monotonic() + seconds
    while not (there := found()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return there


def told(job: Job, kind: str) -> list[Event]:
    """The events of a kind that have come so far."""
    return [event for event in read_events(job.run.events) if event.type == kind]
