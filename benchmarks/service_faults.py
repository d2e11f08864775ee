"""A part of the service is killed while jobs run: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from live_service import LiveService, end_tree, end_workers, start_service
from service_site import database_url

from benchmarks.service_load import create_job, every, upload_rows

_DONE_SECONDS = 600.0
_BACK_SECONDS = 120.0
_POLL_SECONDS = 0.25
# Room for what a service begins with, and for little more.
_DISK_MIB = 48


class Faulty:
    """A service that is killed in parts, and started again as an operator would."""

    def __init__(self, folder: Path, kind: str, model: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._options = ("--database", database_url(kind, folder), "--models", f"tiny={model}", "--api-processes", "1")
        self.service = start_service(folder, *self._options)
        self._port = self.service.root.rsplit(":", 1)[1]

    def again(self) -> None:
        """Start it again where it was, after its keeper was killed."""
        self.service = start_service(self._folder, "--port", self._port, key=self.service.key)

    def close(self) -> None:
        """End all of it."""
        end_tree(self.service.process)
        end_workers(self.service.data_folder)


def run_fault(name: str, folder: Path, kind: str, model: Path, jobs: int) -> dict[str, Any]:
    """Jobs run, a part is killed, and what is there afterwards is counted."""
    started = time.monotonic()
    with _disk(folder) if name == "full disk" else _plain(folder) as place:
        faulty = Faulty(place / "service", kind, model)
        try:
            with faulty.service.client() as client:
                file = upload_rows(client, 12)
                made = [create_job(client, file, epochs=4).raise_for_status().json()["id"] for _ in range(jobs)]
                _wait(lambda: _is_training(faulty.service) or not _open_jobs(client, made), _DONE_SECONDS)
                at = time.monotonic()
                FAULTS[name](faulty)
                _wait(lambda: _is_back(faulty.service), _BACK_SECONDS)
                back = time.monotonic() - at
                _wait(lambda: not _open_jobs(client, made), _DONE_SECONDS)
                lost = _lost(client, faulty.service, made)
        finally:
            faulty.close()
    return {"seconds_until_back": round(back, 2), "seconds": round(time.monotonic() - started, 1), "lost": lost}


def _worker(faulty: Faulty) -> None:
    killed = _workers(faulty.service)
    for process in killed:
        process.kill()
    if not killed:
        raise RuntimeError("no worker was there to be killed")


def _keeper(faulty: Faulty) -> None:
    faulty.service.process.kill()
    faulty.service.process.wait()
    assert faulty.service.process.stdout is not None
    faulty.service.process.stdout.close()
    faulty.again()


def _engines(faulty: Faulty) -> None:
    """The process that answers chats, between two of them."""
    with faulty.service.client() as client:
        _chat(client)
        faulty.service.kill("engines")
        _wait(lambda: _chat(client) == httpx.codes.OK, _BACK_SECONDS)


def _database(_: Faulty) -> None:
    from postgres import server

    server().control("restart", "-m", "immediate")


def _full_disk(faulty: Faulty) -> None:
    """Nothing can be written for some seconds; then there is room again."""
    filling = faulty.service.data_folder / "filling"
    # Without a buffer: what lies in one is written as the file is closed, and fails there.
    with filling.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**16))
    with faulty.service.client() as client:
        answer = client.post(
            "/files", files={"file": ("x.jsonl", bytes(2**20))}, data={"purpose": "fine-tune"}, timeout=60.0
        )
        assert answer.status_code >= httpx.codes.BAD_REQUEST, answer.text
        time.sleep(5)
    filling.unlink()


FAULTS: dict[str, Callable[[Faulty], object]] = {
    "worker": _worker,
    "dispatcher": lambda faulty: faulty.service.kill("dispatcher"),
    "API": lambda faulty: faulty.service.kill("api-1"),
    "engines": _engines,
    "keeper": _keeper,
    "database": _database,
    "full disk": _full_disk,
}


def _lost(client: httpx.Client, service: LiveService, made: list[str]) -> list[str]:
    """All that is not as it should be: each job there once, done once, with a model that answers."""
    lost = []
    listed = [job["id"] for job in every(client, "/fine_tuning/jobs")]
    if sorted(listed) != sorted(made):
        lost.append(f"jobs {listed} instead of {made}")
    for name in made:
        job = client.get(f"/fine_tuning/jobs/{name}").json()
        if job["status"] != "succeeded":
            lost.append(f"{name} is {job['status']}: {job['error']}")
            continue
        messages = [event["message"] for event in every(client, f"/fine_tuning/jobs/{name}/events")]
        for word in ("New fine-tuned model created", "The job has successfully completed", "Created fine-tuning job"):
            count = sum(word in message for message in messages)
            if count != 1:
                lost.append(f"{name}: {count} times {word!r}")
    if not lost and _chat(client, client.get(f"/fine_tuning/jobs/{made[0]}").json()["fine_tuned_model"]) != 200:
        lost.append(f"the model of {made[0]} does not answer")
    if _workers(service):
        lost.append("a worker runs on after all jobs are done")
    return lost


def _chat(client: httpx.Client, model: str = "tiny") -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "Where?"}], "max_tokens": 2}
    try:
        return client.post("/chat/completions", json=body, timeout=_BACK_SECONDS).status_code
    except httpx.TransportError:
        return 0


def _open_jobs(client: httpx.Client, made: list[str]) -> list[str]:
    try:
        found = {job["id"]: job["status"] for job in every(client, "/fine_tuning/jobs")}
    except httpx.HTTPError:
        return made
    return [job for job in made if found.get(job) not in ("succeeded", "failed", "cancelled")]


def _is_back(service: LiveService) -> bool:
    whole = {"api-1", "dispatcher", "engines"} <= set(service.processes())
    try:
        ready = httpx.get(f"{service.root}/ready", timeout=5.0, trust_env=False).status_code
    except httpx.TransportError:
        return False
    return whole and ready == httpx.codes.OK


def _is_training(service: LiveService) -> bool:
    return bool(_workers(service))


def _workers(service: LiveService) -> list[psutil.Process]:
    """Processes that train a run of this service."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if "tunesmith.worker" in line and str(service.data_folder) in line:
            found.append(process)
    return found


def _wait(what: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(_POLL_SECONDS)


@contextmanager
def _plain(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True)
    yield folder


@contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    """A small disk in memory; needs the rights of root."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
