"""The processes of a training that several devices share: start them, meet them, and notice when one dies.

The worker of a run is rank 0 and does all but the training alone. For the training it starts the other ranks on this
machine, each a worker of the stage `rank` with the same run folder. What a rank must know beyond the folder is the
first line of its standard input; when that input ends, the worker is gone, and so is the rank.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import torch
import torch.distributed as dist

from tunesmith.errors import ResourceError, TunesmithError, WorkerError, from_json
from tunesmith.pipeline.machines import Guests, invite, job_from_text, job_text, withdraw
from tunesmith.pipeline.meeting import RankJob, join_group, open_store, reach_store
from tunesmith.runs.atomic import read_json, write_json
from tunesmith.strategies.base import Strategy
from tunesmith.strategies.table import make_strategy

# With gloo a rank that dies breaks the next exchange at once; where nothing does, the watching thread ends all. That
# waits longer than it takes to learn from a rank that has ended why it did.
_STUCK_SECONDS = 3.0
_DYING_SECONDS = 5.0
_ENDING_SECONDS = 60.0
_UNFORESEEN = "worker.unexpected"


@contextmanager
def joined_ranks(
    run_folder: Path, job: RankJob, *, on_stuck: Callable[[TunesmithError], None], should_stop: Callable[[], bool]
) -> Iterator[Strategy]:
    """The strategy for the training in the block, with all of its ranks at work.

    Args:
        run_folder: Of the run.
        job: Its port is chosen here.
        on_stuck: Tells of an error where a rank has died and this one would wait for it forever; the process ends
            behind it.
        should_stop: Asked while other machines are waited for.

    Raises:
        ResourceError: Other machines did not come.
        Stopped: The user asked to stop while other machines were waited for.
        WorkerError: ``worker.rank_died``: a rank ended; the others ended with it.
        TunesmithError: What another rank ended with.
    """
    # A worker that was killed while it waited has left its own.
    withdraw(run_folder)
    if job.world_size == 1:
        yield make_strategy(job.strategy, job.device)
        return
    threads = torch.get_num_threads()
    own_threads = threads_of_each(job.device, job.devices)
    ranks = Ranks(run_folder)
    try:
        store = open_store(job)
        job = replace(job, port=store.port)
        if job.nodes > 1:
            invite(run_folder, store, job)
            # By a connection of its own: one that waits for an answer keeps others from asking.
            ranks.guests = Guests(reach_store(job.address, job.port))
            ranks.guests.wait(job.nodes, should_stop)
            withdraw(run_folder)
        for rank in range(1, job.devices):
            ranks.start(replace(job, rank=rank), own_threads)
        ranks.watch(on_stuck)
        torch.set_num_threads(own_threads)
        join_group(store, job)
        strategy = make_strategy(job.strategy, job.device, offload=job.offload)
        yield strategy
        strategy.close()
        ranks.wait()
    except RuntimeError as error:
        if isinstance(error, TunesmithError):
            raise
        ranks.unwatch()
        raise ranks.error() or error from error
    finally:
        withdraw(run_folder)
        ranks.end()
        torch.set_num_threads(threads)
        if dist.is_initialized():
            dist.destroy_process_group()


def read_job(given: int) -> RankJob:
    """The job of this rank, from a file descriptor; when that input ends later, this process does."""
    # Without a buffer: a thread that waits in a buffered reader aborts the interpreter when it ends.
    lines = os.fdopen(given, "rb", buffering=0, closefd=False)
    job = job_from_text(lines.readline())

    def wait_for_end() -> None:
        while lines.read(1):
            pass
        os._exit(1)

    threading.Thread(target=wait_for_end, name="worker", daemon=True).start()
    return job


@contextmanager
def joining(job: RankJob) -> Iterator[Strategy]:
    """The strategy for the training in the block, as one of the other ranks."""
    join_group(reach_store(job.address, job.port), job)
    try:
        yield make_strategy(job.strategy, job.device, offload=job.offload)
    finally:
        dist.destroy_process_group()


def write_error(run_folder: Path, rank: int, error: TunesmithError) -> None:
    """Leave word of what this rank ends with."""
    write_json(_error_file(run_folder, rank), error.to_json())


def threads_of_each(device: str, devices: int) -> int:
    """Threads of each process where several share this machine's cores."""
    threads = torch.get_num_threads()
    return max(1, threads // devices) if device == "cpu" else threads


def require_devices(device: str, devices: int) -> None:
    """Refuse more devices than this machine has.

    Raises:
        ResourceError: There are fewer GPUs.
    """
    if device == "cuda" and torch.cuda.device_count() < devices:
        raise ResourceError(
            "there are fewer GPUs than devices are wanted",
            code="resource.devices",
            place="train.devices",
            value=f"{devices} wanted, {torch.cuda.device_count()} there",
            hint="lower train.devices (--devices)",
        )


class Ranks:
    """Ranks of a training, as processes of this one."""

    def __init__(self, run_folder: Path) -> None:
        self._run_folder = run_folder
        self._processes: list[tuple[int, subprocess.Popen[bytes]]] = []
        self._over = threading.Event()
        self.guests: Guests | None = None

    def start(self, job: RankJob, threads: int, log: IO[bytes] | None = None) -> None:
        """Start one; its output goes into ``log``, else where this process's goes."""
        _error_file(self._run_folder, job.rank).unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tunesmith.worker", str(self._run_folder), "--stage", "rank"],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            # Ctrl-C in a terminal is for the process that started it.
            start_new_session=True,
        )
        self._processes.append((job.rank, process))
        assert process.stdin is not None
        process.stdin.write(job_text(job).encode() + b"\n")
        process.stdin.flush()

    def watch(self, on_stuck: Callable[[TunesmithError], None]) -> None:
        """End this process, with word of why, where a rank died and nothing else has noticed for a while."""

        def look() -> None:
            while not self._over.wait(0.5):
                if (self.failed() or self._guest_error()) and not self._over.wait(_STUCK_SECONDS):
                    error = self.error() or WorkerError("a process of the training died", code="worker.rank_died")
                    if self._over.is_set():
                        # Looking took a moment, in which the training noticed by itself.
                        return
                    on_stuck(error)
                    self.end()
                    os._exit(error.exit_code)

        threading.Thread(target=look, name="ranks", daemon=True).start()

    def unwatch(self) -> None:
        """From now on nobody is missed."""
        self._over.set()

    def wait(self) -> None:
        """Let the ranks end by themselves."""
        self.unwatch()
        until = time.monotonic() + _ENDING_SECONDS
        for _, process in self._processes:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()

    def end(self) -> None:
        """End what still runs."""
        self.unwatch()
        for _, process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def running(self) -> bool:
        """Whether all are at work or have ended well, and one is at work."""
        codes = [process.poll() for _, process in self._processes]
        return None in codes and not any(codes)

    def failed(self) -> bool:
        """Whether one has ended badly."""
        return any(process.poll() for _, process in self._processes)

    def error(self) -> TunesmithError | None:
        """What the first rank ended with; the others end because of it, and say less."""
        until = time.monotonic() + _DYING_SECONDS
        while time.monotonic() < until and not self._errors():
            time.sleep(0.1)
        # Those that end because of the first one need a moment too.
        time.sleep(1.0)
        found = min(self._errors(), key=lambda error: error.code == _UNFORESEEN, default=None)
        return self.guests.silent() if found is None and self.guests is not None else found

    def _errors(self) -> list[TunesmithError]:
        ended = [self._ended_with(rank, code) for rank, process in self._processes if (code := process.poll())]
        elsewhere = self._guest_error()
        return ended if elsewhere is None else [*ended, elsewhere]

    def _guest_error(self) -> TunesmithError | None:
        return None if self.guests is None else self.guests.error()

    def _ended_with(self, rank: int, code: int) -> TunesmithError:
        path = _error_file(self._run_folder, rank)
        return from_json(read_json(path)) if path.exists() else _died(rank, code)


def _error_file(run_folder: Path, rank: int) -> Path:
    return run_folder / f"rank-{rank}.error.json"


def _died(rank: int, code: int) -> WorkerError:
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"code {code}"
    return WorkerError(
        "a process of the training died, and the others ended with it",
        code="worker.rank_died",
        value=f"rank {rank}: {name}",
        hint="the system ends processes so when memory runs out; resume the run, perhaps with strategy=fsdp or fewer "
        "train.devices",
    )
