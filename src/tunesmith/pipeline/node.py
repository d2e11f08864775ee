"""Another machine's part of a training: as many ranks as the run wants of each machine."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import torch
from torch.distributed.distributed_c10d import Store

from tunesmith.errors import ResourceError, RunError, Stopped, TunesmithError, WorkerError
from tunesmith.pipeline.machines import Guest, find_invitation, is_of, offered_job
from tunesmith.pipeline.meeting import RankJob, reach_store
from tunesmith.pipeline.ranks import Ranks, require_devices, threads_of_each
from tunesmith.recipe.load import load_recipe
from tunesmith.runs.atomic import read_json
from tunesmith.runs.control import read_wish
from tunesmith.runs.layout import RunFolder

_LOOK_SECONDS = 0.5
_REACH = timedelta(seconds=3)
_ENDING_SECONDS = 20.0


def run_node(folder: RunFolder, say: Callable[[str], None], should_stop: Callable[[], bool]) -> None:
    """Wait until the run's training invites other machines, then work for it to its end.

    Args:
        folder: Of the run, as this machine sees it.
        say: Gets a line now and then.
        should_stop: Whether the user wants an end; the whole training ends with it, to be resumed.

    Raises:
        RunError: The run is over, or wants one machine.
        Stopped: The user asked to stop.
        ResourceError: This machine has not the devices that the training wants.
        WorkerError: A rank of this machine died, or the machine that owns the run is gone.
    """
    say(f"waiting for {folder.name} to begin its training")
    store = _await(folder, should_stop)
    job = offered_job(store)
    _require_fitting(job)
    guest = Guest(store)
    try:
        place = guest.await_place(should_stop)
        say(f"machine {place + 1} of {job.nodes}: {job.devices} of {job.world_size} processes train here")
        _work(folder, job, place, guest, should_stop)
    finally:
        guest.leave()
    say("the training has ended")


def _work(folder: RunFolder, job: RankJob, place: int, guest: Guest, should_stop: Callable[[], bool]) -> None:
    """Run this machine's ranks to their end; whatever goes wrong is told to the worker."""
    ranks, first = Ranks(folder.path), place * job.devices
    try:
        with (folder.path / f"node-{place}.log").open("ab") as log:
            log.write(f"{socket.gethostname()}\n".encode())
            log.flush()
            for rank in range(first, first + job.devices):
                ranks.start(replace(job, rank=rank), threads_of_each(job.device, job.devices), log)
        _watch(ranks, guest, should_stop)
    except Stopped:
        guest.tell(_taken(place))
        raise
    except TunesmithError as error:
        guest.tell(error)
        raise
    finally:
        ranks.end()


def _await(folder: RunFolder, should_stop: Callable[[], bool]) -> Store:
    """The store of a training that waits; files that an earlier attempt left lead nowhere."""
    while True:
        _require_waiting(folder)
        invitation = find_invitation(folder.path)
        if invitation is not None:
            try:
                store = reach_store(invitation.address, invitation.port, _REACH)
                if is_of(store, invitation):
                    return store
            except RuntimeError:
                pass
        if should_stop():
            raise Stopped("stopped while waiting for the training to begin")
        time.sleep(_LOOK_SECONDS)


def _require_waiting(folder: RunFolder) -> None:
    """Refuse a run that will never want this machine."""
    if folder.manifest.exists():
        raise RunError("the run is finished, and has no work for this machine", code="run.finished")
    if read_wish(folder.control) == "cancel":
        raise RunError("the run was cancelled", code="run.cancelled")
    if not folder.resume.exists() and _nodes(folder) == 1:
        raise RunError(
            "the run wants one machine",
            code="run.one_machine",
            hint="begin it with --nodes, or resume it with --nodes",
        )


def _nodes(folder: RunFolder) -> int:
    if folder.resolved.exists():
        return int(read_json(folder.resolved)["host"].get("train.nodes", {}).get("value", 1))
    return load_recipe(folder.recipe).train.nodes


def _require_fitting(job: RankJob) -> None:
    """Refuse to take part where this machine has other devices than the training wants."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != job.device:
        raise ResourceError(
            "this machine has not the devices that the training wants",
            code="resource.devices",
            value=f"{job.device} is wanted, {device} is here",
        )
    require_devices(device, job.devices)


def _taken(place: int) -> WorkerError:
    return WorkerError(
        "a machine was taken from the training, which cannot go on without it",
        code="worker.rank_died",
        value=f"machine {place + 1}: {socket.gethostname()}",
        hint="resume the run, and run `tunesmith join` there again",
    )


def _watch(ranks: Ranks, guest: Guest, should_stop: Callable[[], bool]) -> None:
    """Until all ranks have ended well."""
    lost: float | None = None
    while ranks.running():
        if should_stop():
            raise Stopped("this machine was taken from the training, which ends with that and can be resumed")
        time.sleep(_LOOK_SECONDS)
        lost = None if guest.owner_is_there() else lost or time.monotonic()
        # Ranks that have just been told that training is over need a moment to end.
        if lost is not None and time.monotonic() - lost > _ENDING_SECONDS:
            break
    if not ranks.failed() and not ranks.running():
        return
    if not guest.owner_is_there():
        raise WorkerError(
            "the training ended on the machine that owns the run, or that machine is gone",
            code="worker.unreachable",
            hint="`tunesmith runs show` there says more; after a resume, join again",
        )
    error = ranks.error()
    if error is not None:
        raise error
