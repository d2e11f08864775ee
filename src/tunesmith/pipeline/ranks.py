"""The processes of a training that several devices share: start them, meet them, and notice when one dies.

The worker of a run is rank 0 and does all but the training alone. For the training it starts the other ranks on this
machine, each a worker of the stage `rank` with the same run folder; they end with it. What they must know beyond the
folder lies in ranks.json.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import Store

from tunesmith.errors import ResourceError, TunesmithError, WorkerError, from_json
from tunesmith.runs.atomic import read_json, write_json
from tunesmith.strategies.base import Strategy
from tunesmith.strategies.table import make_strategy

RANK_VARIABLE = "TUNESMITH_RANK"
# Ranks wait for one that validates or writes; a rank that dies closes its connections and is noticed at once.
_PATIENCE = timedelta(hours=12)
_MEETING = timedelta(minutes=5)
_LOCAL = "127.0.0.1"
_DYING_SECONDS = 5.0
_ENDING_SECONDS = 60.0


@dataclass(frozen=True)
class RankJob:
    """What all ranks of a training agree on beforehand.

    ``watched`` marks the held-out items whose loss is watched; ``port`` is where they meet.
    """

    devices: int
    watched: tuple[str, ...]
    port: int = 0


@contextmanager
def joined_ranks(run_folder: Path, job: RankJob, *, strategy: str, device: str) -> Iterator[Strategy]:
    """The strategy for the training in the block, with all of its ranks at work; the job's port is chosen here.

    Raises:
        ResourceError: There are fewer GPUs than devices are wanted.
        WorkerError: ``worker.rank_died``: a rank ended; the others ended with it.
        TunesmithError: What another rank ended with.
    """
    devices = job.devices
    if devices == 1:
        yield make_strategy(strategy, device)
        return
    _require_devices(device, devices)
    store = TCPStore(_LOCAL, 0, devices, is_master=True, wait_for_workers=False, timeout=_MEETING)
    write_json(run_folder / "ranks.json", vars(replace(job, port=store.port)))
    threads = torch.get_num_threads()
    own_threads = max(1, threads // devices) if device == "cpu" else threads
    others = [_start(run_folder, rank, own_threads) for rank in range(1, devices)]
    try:
        torch.set_num_threads(own_threads)
        _join(store, 0, devices, device)
        yield make_strategy(strategy, device)
        _wait(others)
    except RuntimeError as error:
        if isinstance(error, TunesmithError):
            raise
        raise _told(run_folder, others, error) from error
    finally:
        for other in others:
            if other.poll() is None:
                other.kill()
                other.wait()
        torch.set_num_threads(threads)
        if dist.is_initialized():
            dist.destroy_process_group()
        (run_folder / "ranks.json").unlink(missing_ok=True)


@contextmanager
def joining(run_folder: Path, rank: int, *, strategy: str, device: str) -> Iterator[tuple[Strategy, RankJob]]:
    """The same, as one of the other ranks."""
    raw = read_json(run_folder / "ranks.json")
    job = RankJob(**{**raw, "watched": tuple(raw["watched"])})
    store = TCPStore(_LOCAL, job.port, job.devices, is_master=False, timeout=_MEETING)
    if device == "cuda":
        torch.cuda.set_device(rank)
    _join(store, rank, job.devices, device)
    try:
        yield make_strategy(strategy, device), job
    finally:
        dist.destroy_process_group()


def error_file(run_folder: Path, rank: int) -> Path:
    """Where a rank says what it ended with."""
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


def _start(run_folder: Path, rank: int, threads: int) -> subprocess.Popen[bytes]:
    error_file(run_folder, rank).unlink(missing_ok=True)
    environment = {**os.environ, RANK_VARIABLE: str(rank), "OMP_NUM_THREADS": str(threads)}
    # Output goes where this worker's goes, into worker.log.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tunesmith.worker", str(run_folder), "--stage", "rank"],
        env=environment,
        stdin=subprocess.DEVNULL,
    )


def _join(store: Store, rank: int, devices: int, device: str) -> None:
    # All ranks are on this machine; a name of it that resolves nowhere must not stand in the way.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=devices, timeout=_PATIENCE)


def _wait(others: Sequence[subprocess.Popen[bytes]]) -> None:
    """Let the ranks end by themselves."""
    until = time.monotonic() + _ENDING_SECONDS
    for other in others:
        try:
            other.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            other.kill()


def _told(run_folder: Path, others: Sequence[subprocess.Popen[bytes]], error: RuntimeError) -> Exception:
    """What another rank ended with, where one did; else the error as it is."""
    until = time.monotonic() + _DYING_SECONDS
    while time.monotonic() < until:
        for rank, other in enumerate(others, start=1):
            code = other.poll()
            if not code:
                continue
            path = error_file(run_folder, rank)
            return from_json(read_json(path)) if path.exists() else _died(rank, code)
        time.sleep(0.1)
    return error


def _died(rank: int, code: int) -> WorkerError:
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"code {code}"
    return WorkerError(
        "a process of the training died, and the others ended with it",
        code="worker.rank_died",
        value=f"rank {rank}: {name}",
        hint="the system ends processes so when memory runs out; resume the run, perhaps with strategy=fsdp or fewer "
        "train.devices",
    )


def write_error(run_folder: Path, rank: int, error: TunesmithError) -> None:
    """Leave word of what this rank ends with."""
    content: dict[str, Any] = error.to_json()
    write_json(error_file(run_folder, rank), content)
