"""Load on a service: a large upload, hundreds of queued jobs, clients that poll and stream meanwhile."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
from live_service import LiveService

TINY = {"technique": "lora", "rank": 4, "max_length": 64, "evaluation_rows": 2, "samples": 1, "few_shot": 0}
_TURN = b'{"role": "assistant", "content": "On its way."}]}\n'
_LINE = b'{"messages": [{"role": "user", "content": "Where is my parcel? %d"}, ' + _TURN
_LOOK_SECONDS = 0.2
_MIB = 2**20


@dataclass(frozen=True)
class Load:
    """How much is asked of it."""

    jobs: int
    clients: int
    upload_bytes: int
    seconds: float


class Clock:
    """Seconds by route, from all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self.failures: list[str] = []

    def measure(self, route: str, call: Callable[[], httpx.Response]) -> Any:
        """Do a request and keep how long it took; the answer's JSON."""
        started = time.perf_counter()
        answer = call()
        self.add(route, time.perf_counter() - started)
        if answer.is_error:
            with self._lock:
                self.failures.append(f"{route}: {answer.status_code} {answer.text[:200]}")
            return {}
        return answer.json()

    def add(self, route: str, seconds: float) -> None:
        """Keep one number."""
        with self._lock:
            self._seconds[route].append(seconds)

    def routes(self) -> dict[str, dict[str, float]]:
        """What was measured, in milliseconds."""
        return {route: _quantiles(seconds) for route, seconds in sorted(self._seconds.items())}


class Memory:
    """The most memory that each of the service's processes had."""

    def __init__(self, service: LiveService) -> None:
        self._service = service
        self._stop = threading.Event()
        self.most_mib: dict[str, float] = {}
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            for name, process in self._service.processes().items():
                try:
                    mib = process.memory_info().rss / _MIB
                except psutil.NoSuchProcess:
                    continue
                self.most_mib[name] = max(mib, self.most_mib.get(name, 0.0))


def run_load(service: LiveService, load: Load) -> dict[str, Any]:
    """Put the load on a service; numbers by route, memory, and what was lost."""
    clock = Clock()
    with service.client(timeout_seconds=600.0) as client, Memory(service) as memory:
        clock.measure("GET /v1/models", lambda: client.get("/models"))
        time.sleep(2 * _LOOK_SECONDS)
        before = dict(memory.most_mib)
        upload_seconds = _upload_large(client, clock, load.upload_bytes)
        grown = {name: round(mib - before.get(name, 0.0), 1) for name, mib in memory.most_mib.items()}
        file = upload_rows(client, 12)
        jobs = _create_jobs(service, clock, file, load)
        seen = _ask_meanwhile(service, clock, jobs, load)
        listed = [job["id"] for job in every(client, "/fine_tuning/jobs")]
        cancelled = [client.post(f"/fine_tuning/jobs/{job}/cancel").status_code for job in jobs]
    lost = [f"job {job} is not listed" for job in jobs if job not in listed]
    lost += [] if len(listed) == len(set(listed)) == load.jobs else [f"{len(listed)} jobs are listed"]
    lost += [f"{count} events of {job} came out of order" for job, count in seen["disorder"].items() if count]
    return {
        "routes": clock.routes(),
        "memory_mib": {name: round(mib, 1) for name, mib in memory.most_mib.items()},
        "memory_grown_by_upload_mib": grown,
        "upload_seconds": round(upload_seconds, 2),
        "streamed_events": seen["streamed"],
        "cancelled": sum(status == httpx.codes.OK for status in cancelled),
        "lost": lost + clock.failures,
        "asked": load.__dict__,
    }


def upload_rows(client: httpx.Client, count: int) -> str:
    """A training file; its id."""
    data = b"".join(_LINE % number for number in range(count))
    answer = client.post("/files", files={"file": ("rows.jsonl", data)}, data={"purpose": "fine-tune"})
    answer.raise_for_status()
    return str(answer.json()["id"])


def create_job(client: httpx.Client, file: str, **options: Any) -> httpx.Response:
    """Ask for a job on the tiny model."""
    hyperparameters = {"n_epochs": options.pop("epochs", 1)}
    body = {
        "model": "tiny",
        "training_file": file,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "tunesmith": {**TINY, **options},
    }
    return client.post("/fine_tuning/jobs", json=body)


def every(client: httpx.Client, path: str) -> Iterator[dict[str, Any]]:
    """All items of a list, page by page."""
    query: dict[str, Any] = {"limit": 100}
    while True:
        answer = client.get(path, params=query)
        answer.raise_for_status()
        page = answer.json()
        yield from page["data"]
        if not page["has_more"]:
            return
        query["after"] = page["data"][-1]["id"]


def _upload_large(client: httpx.Client, clock: Clock, size: int) -> float:
    """A file of this size, sent piece by piece as it is made."""
    edge = "tunesmith-benchmark"
    head = (
        f'--{edge}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="large.jsonl"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    ).encode()
    tail = f"\r\n--{edge}--\r\n".encode()
    line = b'{"messages": [{"role": "user", "content": "%08d' + b"x" * 16_000 + b'"}, ' + _TURN

    def pieces() -> Iterator[bytes]:
        yield head
        sent = number = 0
        while sent < size:
            piece = line % number
            sent, number = sent + len(piece), number + 1
            yield piece
        yield tail

    kind = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    started = time.perf_counter()
    clock.measure(f"POST /v1/files ({size // _MIB} MiB)", lambda: client.post("/files", content=pieces(), headers=kind))
    return time.perf_counter() - started


def _create_jobs(service: LiveService, clock: Clock, file: str, load: Load) -> list[str]:
    with service.client() as client, ThreadPoolExecutor(8) as pool:
        # More than the tiny model's few steps, so that the queue stays a queue.
        route = "POST /v1/fine_tuning/jobs"
        made = pool.map(lambda _: clock.measure(route, lambda: create_job(client, file, epochs=5)), range(load.jobs))
        jobs = [job["id"] for job in made if job]
    if len(jobs) < load.jobs:
        raise RuntimeError(f"jobs were refused: {clock.failures[:3]}")
    return jobs


def _ask_meanwhile(service: LiveService, clock: Clock, jobs: list[str], load: Load) -> dict[str, Any]:
    """Every second client polls, every other one streams, until the time is over."""
    until = time.monotonic() + load.seconds
    streamed = [0] * load.clients
    disorder: dict[str, int] = {}

    def poll(number: int) -> None:
        with service.client() as client:
            turn = number
            while time.monotonic() < until:
                job = jobs[turn % len(jobs)]
                clock.measure("GET /v1/fine_tuning/jobs", lambda: client.get("/fine_tuning/jobs", params={"limit": 20}))
                clock.measure("GET /v1/fine_tuning/jobs/ID", lambda job=job: client.get(f"/fine_tuning/jobs/{job}"))
                path = f"/fine_tuning/jobs/{job}/events"
                clock.measure("GET /v1/fine_tuning/jobs/ID/events", lambda path=path: client.get(path))
                turn += load.clients

    def stream(number: int) -> None:
        with service.client("/tunesmith/v1") as client:
            turn = number
            while time.monotonic() < until:
                job, last = jobs[turn % len(jobs)], ""
                started, first = time.perf_counter(), True
                with client.stream("GET", f"/jobs/{job}/stream") as answer:
                    for line in answer.iter_lines():
                        if first:
                            clock.add("GET /tunesmith/v1/jobs/ID/stream (first word)", time.perf_counter() - started)
                            first = False
                        if line.startswith("id: "):
                            streamed[number] += 1
                            disorder[job] = disorder.get(job, 0) + (line <= last)
                            last = line
                        if time.monotonic() > until or time.perf_counter() - started > load.seconds / 4:
                            break
                turn += load.clients

    with ThreadPoolExecutor(load.clients) as pool:
        work = [pool.submit(stream if number % 2 else poll, number) for number in range(load.clients)]
        for one in work:
            one.result()
    return {"streamed": sum(streamed), "disorder": disorder}


def _quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "count": len(ordered),
        "p50_ms": round(statistics.median(ordered) * 1000, 2),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] * 1000, 2),
    }
