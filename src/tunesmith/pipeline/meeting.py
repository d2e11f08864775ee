"""How the processes of a training find each other: a store on the worker's machine, and torch's process group."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import Store

from tunesmith.errors import UsageError

# Ranks wait for one that validates or writes; one that dies is noticed by other means.
_PATIENCE = timedelta(hours=12)
_MEETING = timedelta(minutes=5)
LOCAL = "127.0.0.1"
# What a platform that starts workers says of the machine that it started one on.
_ADDRESS_VARIABLE = "TUNESMITH_ADDRESS"
# Nothing is sent there: it stands for the way out of this machine (RFC 5737).
_OUTSIDE = "192.0.2.1"


@dataclass(frozen=True)
class RankJob:
    """What all ranks of a training agree on beforehand.

    ``devices`` are those of each of ``nodes`` machines, all of kind ``device`` (``cpu`` or ``cuda``); ``watched`` marks
    the held-out items whose loss is watched; ``address`` (in numbers) and ``port`` are where they meet.
    """

    devices: int
    watched: tuple[str, ...]
    strategy: str = "single"
    offload: bool = False
    nodes: int = 1
    device: str = "cpu"
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


def open_store(job: RankJob) -> TCPStore:
    """A store at the job's address; torch by itself would listen at all of them."""
    here = socket.socket()
    here.bind((job.address, 0))
    here.listen()
    port = here.getsockname()[1]
    return TCPStore(
        job.address,
        port,
        job.world_size,
        is_master=True,
        wait_for_workers=False,
        timeout=_MEETING,
        master_listen_fd=here.detach(),
    )


def reach_store(address: str, port: int, timeout: timedelta = _MEETING) -> TCPStore:
    """The store of the worker that owns the run.

    Raises:
        RuntimeError: It does not answer.
    """
    store = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timeout)
    store.set_timeout(_MEETING)
    return store


def use_device(job: RankJob) -> None:
    """Make a rank's own GPU the one that it loads and computes on, before anything is loaded."""
    if job.device == "cuda":
        torch.cuda.set_device(job.local_rank)


def join_group(store: Store, job: RankJob) -> None:
    """Become one of the processes that train together."""
    # Of several names of a machine gloo and nccl may choose one that leads nowhere.
    interface = _interface_towards(job)
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        if job.nodes > 1:
            os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    # With offload, parts of weights that lie in the host's memory are talked about too.
    backend = "cpu:gloo,cuda:nccl" if job.device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=job.rank, world_size=job.world_size, timeout=_PATIENCE)
    # Only now all are there: nccl begins to talk when it has something to say.
    dist.barrier()


def address_for(nodes: int, wanted: str) -> str:
    """Where the ranks meet, in numbers: on loopback where there is one machine, else as the others reach this one.

    Raises:
        UsageError: ``wanted`` is no address, or ``auto`` and this machine knows none that leads outside.
    """
    if nodes == 1:
        return LOCAL
    if wanted == "auto":
        wanted = os.environ.get(_ADDRESS_VARIABLE) or wanted
    if wanted == "auto":
        # The host's own name leads to loopback on many systems.
        found = _way_to(_OUTSIDE, 9)
        if found is None or found.startswith("127."):
            raise _no_address("auto", "this machine has no way to others")
        return found
    try:
        return socket.gethostbyname(wanted)
    except OSError as error:
        raise _no_address(wanted, "this is no address of a machine") from error


def _no_address(wanted: str, message: str) -> UsageError:
    return UsageError(
        message,
        code="usage.address",
        place="train.address",
        value=wanted,
        hint="give this machine's name or address as the others reach it",
    )


def _way_to(address: str, port: int) -> str | None:
    """The address of this machine from which that one is reached."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: connecting only chooses the way.
            probe.connect((address, port))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _interface_towards(job: RankJob) -> str | None:
    """The network interface that leads to where the ranks meet; the one that has the address, on that machine."""
    here = _way_to(job.address, job.port or 9)
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == here for address in addresses):
            return name
    return None
