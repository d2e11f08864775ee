"""The processes of a training that several devices share: start them, meet them, and notice when one dies.

The worker of a run is rank 0 and does all but the training alone. For the training it starts the other ranks on this
machine, each a worker of the stage `rank` with the same run folder. What a rank must know beyond the folder is the
first line of its standard input; when that input ends, the worker is gone, and so is the rank.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import Store

from tunesmith.errors import ResourceError, TunesmithError, WorkerError, from_json
from tunesmith.runs.atomic import read_json, write_json
from tunesmith.strategies.base import Strategy
from tunesmith.strategies.table import make_strategy

# Ranks wait for one that validates or writes; one that dies is noticed by other means.
_PATIENCE = timedelta(hours=12)
_MEETING = timedelta(minutes=5)
_LOCAL = "127.0.0.1"
# With gloo a rank that dies breaks the next exchange at once; where nothing does, the watching thread ends all.
_STUCK_SECONDS = 10.0
_DYING_SECONDS = 5.0
_ENDING_SECONDS = 60.0
_UNFORESEEN = "worker.unexpected"


@dataclass(frozen=True)
class RankJob:
    """What all ranks of a training agree on beforehand.

    ``watched`` marks the held-out items whose loss is watched; ``port`` is where they meet.
    """

    devices: int
    watched: tuple[str, ...]
    rank: int = 0
    port: int = 0


@contextmanager
def joined_ranks(
    run_folder: Path, job: RankJob, *, strategy: str, device: str, on_stuck: Callable[[TunesmithError], None]
) -> Iterator[Strategy]:
    """The strategy for the training in the block, with all of its ranks at work.

    Args:
        run_folder: Of the run.
        job: Its rank and port are chosen here.
        strategy: Its name.
        device: ``cpu`` or ``cuda``.
        on_stuck: Tells of an error where a rank has died and this one would wait for it forever; the process ends
            behind it.

    Raises:
        ResourceError: There are fewer GPUs than devices are wanted.
        WorkerError: ``worker.rank_died``: a rank ended; the others ended with it.
        TunesmithError: What another rank ended with.
    """
    if job.devices == 1:
        yield make_strategy(strategy, device)
        return
    _require_devices(device, job.devices)
    threads = torch.get_num_threads()
    own_threads = max(1, threads // job.devices) if device == "cpu" else threads
    ranks = _Ranks(run_folder)
    try:
        store = _meeting_place(job.devices)
        for rank in range(1, job.devices):
            ranks.start(replace(job, rank=rank, port=store.port), own_threads)
        ranks.watch(on_stuck)
        torch.set_num_threads(own_threads)
        _join(store, 0, job.devices, device)
        yield make_strategy(strategy, device)
        ranks.wait()
    except RuntimeError as error:
        if isinstance(error, TunesmithError):
            raise
        raise ranks.error() or error from error
    finally:
        ranks.end()
        torch.set_num_threads(threads)
        if dist.is_initialized():
            dist.destroy_process_group()


def read_job(given: int) -> RankJob:
    """The job of this rank, from a file descriptor; when that input ends later, this process does."""
    # Without a buffer: a thread that waits in a buffered reader aborts the interpreter when it ends.
    lines = os.fdopen(given, "rb", buffering=0, closefd=False)
    raw = json.loads(lines.readline())

    def wait_for_end() -> None:
        while lines.read(1):
            pass
        os._exit(1)

    threading.Thread(target=wait_for_end, name="worker", daemon=True).start()
    return RankJob(**{**raw, "watched": tuple(raw["watched"])})


@contextmanager
def joining(job: RankJob, *, strategy: str, device: str) -> Iterator[Strategy]:
    """The strategy for the training in the block, as one of the other ranks."""
    store = TCPStore(_LOCAL, job.port, job.devices, is_master=False, timeout=_MEETING)
    _join(store, job.rank, job.devices, device)
    try:
        yield make_strategy(strategy, device)
    finally:
        dist.destroy_process_group()


def write_error(run_folder: Path, rank: int, error: TunesmithError) -> None:
    """Leave word of what this rank ends with."""
    write_json(_error_file(run_folder, rank), error.to_json())


class _Ranks:
    """The other ranks of a training, as processes of this one."""

    def __init__(self, run_folder: Path) -> None:
        self._run_folder = run_folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._over = threading.Event()

    def start(self, job: RankJob, threads: int) -> None:
        """Start one; its output goes where this worker's goes, into worker.log."""
        _error_file(self._run_folder, job.rank).unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tunesmith.worker", str(self._run_folder), "--stage", "rank"],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
        )
        self._processes.append(process)
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
        process.stdin.flush()

    def watch(self, on_stuck: Callable[[TunesmithError], None]) -> None:
        """End this process, with word of why, where a rank died and nothing else has noticed for a while."""

        def look() -> None:
            while not self._over.wait(0.5):
                if any(process.poll() for process in self._processes) and not self._over.wait(_STUCK_SECONDS):
                    error = self.error() or WorkerError("a process of the training died", code="worker.rank_died")
                    on_stuck(error)
                    self.end()
                    os._exit(error.exit_code)

        threading.Thread(target=look, name="ranks", daemon=True).start()

    def wait(self) -> None:
        """Let the ranks end by themselves."""
        until = time.monotonic() + _ENDING_SECONDS
        for process in self._processes:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()

    def end(self) -> None:
        """End what still runs."""
        self._over.set()
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def error(self) -> TunesmithError | None:
        """What the first rank ended with; the others end because of it, and say less."""
        until = time.monotonic() + _DYING_SECONDS
        while time.monotonic() < until and not any(process.poll() for process in self._processes):
            time.sleep(0.1)
        # Those that end because of the first one need a moment too.
        time.sleep(1.0)
        found = [
            self._ended_with(rank, code)
            for rank, process in enumerate(self._processes, start=1)
            if (code := process.poll())
        ]
        return min(found, key=lambda error: error.code == _UNFORESEEN, default=None)

    def _ended_with(self, rank: int, code: int) -> TunesmithError:
        path = _error_file(self._run_folder, rank)
        return from_json(read_json(path)) if path.exists() else _died(rank, code)


def _error_file(run_folder: Path, rank: int) -> Path:
    return run_folder / f"rank-{rank}.error.json"


def _require_devices(device: str, devices: int) -> None:
    if device == "cuda" and torch.cuda.device_count() < devices:
        raise ResourceError(
            "there are fewer GPUs than devices are wanted",
            code="resource.devices",
            place="train.devices",
            value=f"{devices} wanted, {torch.cuda.device_count()} there",
            hint="lower train.devices",
        )


def _meeting_place(devices: int) -> TCPStore:
    """A store that no other machine reaches; torch by itself would listen everywhere."""
    here = socket.socket()
    here.bind((_LOCAL, 0))
    here.listen()
    port = here.getsockname()[1]
    return TCPStore(
        _LOCAL,
        port,
        devices,
        is_master=True,
        wait_for_workers=False,
        timeout=_MEETING,
        master_listen_fd=here.detach(),
    )


def _join(store: Store, rank: int, devices: int, device: str) -> None:
    # All ranks are on this machine; a name of it that resolves nowhere must not stand in the way.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=devices, timeout=_PATIENCE)
    # Only now all are there: nccl begins to talk when it has something to say.
    dist.barrier()


def _died(rank: int, code: int) -> WorkerError:
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"code {code}"
    return WorkerError(
        "a process of the training died, and the others ended with it",
        code="worker.rank_died",
        value=f"rank {rank}: {name}",
        hint="the system ends processes so when memory runs out; resume the run, perhaps with strategy=fsdp or fewer "
        "train.devices",
    )
