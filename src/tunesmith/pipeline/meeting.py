"""How the processes of a training find each other: a store on the worker's machine, and torch's process group.

On one machine all of it stays on loopback. Other machines are told the address by a file in the run folder, which lies
on a disk that all of them see.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import Store

from tunesmith.errors import ResourceError, Stopped, UsageError, WorkerError
from tunesmith.runs.atomic import read_json, write_json

# Ranks wait for one that validates or writes; one that dies is noticed by other means.
_PATIENCE = timedelta(hours=12)
_MEETING = timedelta(minutes=5)
_OTHER_MACHINES_SECONDS = 3600.0
LOCAL = "127.0.0.1"
_FILE = "meeting.json"
_MACHINES, _JOB = "machines", "job"


@dataclass(frozen=True)
class RankJob:
    """What all ranks of a training agree on beforehand.

    ``devices`` are those of each of ``nodes`` machines; ``watched`` marks the held-out items whose loss is watched;
    ``address`` and ``port`` are where they meet.
    """

    devices: int
    watched: tuple[str, ...]
    strategy: str = "single"
    offload: bool = False
    nodes: int = 1
    rank: int = 0
    address: str = LOCAL
    port: int = 0

    @property
    def world_size(self) -> int:
        """How many processes there are on all machines."""
        return self.devices * self.nodes

    @property
    def local_rank(self) -> int:
        """This process among those of its machine."""
        return self.rank % self.devices


@dataclass(frozen=True)
class Invitation:
    """Where a training waits for other machines."""

    address: str
    port: int
    nodes: int


def open_store(job: RankJob) -> TCPStore:
    """A store that only this machine reaches where there is no other; torch by itself would listen everywhere.

    Raises:
        UsageError: The address that other machines should use is none.
    """
    if job.nodes > 1:
        _address_of(job.address)
    here = socket.socket()
    here.bind((LOCAL if job.nodes == 1 else "", 0))
    here.listen()
    port = here.getsockname()[1]
    return TCPStore(
        LOCAL,
        port,
        job.world_size,
        is_master=True,
        wait_for_workers=False,
        timeout=_MEETING,
        master_listen_fd=here.detach(),
    )


def reach_store(address: str, port: int) -> TCPStore:
    """The store of the worker that owns the run.

    Raises:
        WorkerError: It does not answer.
    """
    try:
        return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=_MEETING)
    except RuntimeError as error:
        raise WorkerError(
            "the machine that owns the run does not answer",
            code="worker.unreachable",
            value=f"{address}:{port}",
            hint="both machines have to reach each other's ports; train.address names the owner as others see it",
        ) from error


def join_group(store: Store, job: RankJob, device: str) -> None:
    """Become one of the processes that train together."""
    # Of several names of a machine gloo and nccl may choose one that leads nowhere.
    interface = _interface_towards(job)
    if interface is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = interface
        if job.nodes > 1:
            os.environ["NCCL_SOCKET_IFNAME"] = interface
    if device == "cuda":
        torch.cuda.set_device(job.local_rank)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=job.rank, world_size=job.world_size, timeout=_PATIENCE)
    # Only now all are there: nccl begins to talk when it has something to say.
    dist.barrier()


def invite(run_folder: Path, store: Store, job: RankJob, text: str) -> None:
    """Tell other machines where to come, and what all ranks agree on."""
    store.set(_JOB, text)
    write_json(run_folder / _FILE, {"address": job.address, "port": job.port, "nodes": job.nodes})


def withdraw(run_folder: Path) -> None:
    """Nobody is waited for any more."""
    (run_folder / _FILE).unlink(missing_ok=True)


def find_invitation(run_folder: Path) -> Invitation | None:
    """Where to come, once a training waits."""
    path = run_folder / _FILE
    return Invitation(**read_json(path)) if path.exists() else None


def wait_for_machines(store: Store, nodes: int, should_stop: Callable[[], bool]) -> None:
    """Until so many machines are there, this one among them.

    Raises:
        Stopped: The user asked to stop.
        ResourceError: They did not come within an hour.
    """
    until = time.monotonic() + _OTHER_MACHINES_SECONDS
    while (there := 1 + store.add(_MACHINES, 0)) < nodes:
        if should_stop():
            raise Stopped("stopped while waiting for other machines")
        if time.monotonic() > until:
            raise ResourceError(
                "other machines did not come within an hour",
                code="resource.machines",
                place="train.nodes",
                value=f"{there} of {nodes} are there",
                hint="run `tunesmith join` with the run's name on each of the others",
            )
        time.sleep(0.2)


def take_place(store: Store, nodes: int) -> tuple[int, str]:
    """This machine among all, from 1, and what all ranks agree on.

    Raises:
        UsageError: There are as many machines as are wanted.
    """
    place = store.add(_MACHINES, 1)
    if place >= nodes:
        raise UsageError(
            "the training has all the machines that it wants", code="usage.machines", value=f"train.nodes={nodes}"
        )
    return place, store.get(_JOB).decode()


def is_there(store: Store) -> bool:
    """Whether the worker that owns the run still answers."""
    try:
        store.add(_MACHINES, 0)
    except RuntimeError:
        return False
    return True


def own_address() -> str:
    """This machine's name, as others most likely know it."""
    return socket.gethostname()


def _address_of(name: str) -> str:
    try:
        return socket.gethostbyname(name)
    except OSError as error:
        raise UsageError(
            "this is no address of a machine",
            code="usage.address",
            place="train.address",
            value=name,
            hint="give this machine's name or address as the others reach it",
        ) from error


def _interface_towards(job: RankJob) -> str | None:
    """The network interface that leads to where the ranks meet; the one that has the address, on that machine."""
    there = _address_of(job.address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: connecting only chooses the way.
        probe.connect((there, job.port or 9))
        here = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == here for address in addresses):
            return name
    return None
