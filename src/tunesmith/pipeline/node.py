"""Another machine's part of a training: as many ranks as the run wants of each machine."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from tunesmith.errors import RunError, Stopped, WorkerError
from tunesmith.pipeline.meeting import Invitation, find_invitation, is_there, reach_store, take_place
from tunesmith.pipeline.ranks import Ranks, job_from_text, require_devices, threads_of_each, write_error
from tunesmith.runs.layout import RunFolder

_LOOK_SECONDS = 0.5
_LOST_SECONDS = 5.0
_MOST_LOST = 4


def run_node(folder: RunFolder, say: Callable[[str], None], should_stop: Callable[[], bool]) -> None:
    """Wait until the run's training invites other machines, then work for it to its end.

    Args:
        folder: Of the run, as this machine sees it.
        say: Gets a line now and then.
        should_stop: Whether the user wants an end; the whole training ends with it, to be resumed.

    Raises:
        RunError: The run is finished already.
        Stopped: The user asked to stop.
        ResourceError: There are fewer GPUs than devices are wanted.
        WorkerError: A rank of this machine died, or the machine that owns the run is gone.
    """
    say(f"waiting for {folder.name} to begin its training")
    invitation = _await(folder, should_stop)
    store = reach_store(invitation.address, invitation.port)
    place, text = take_place(store, invitation.nodes)
    job = job_from_text(text)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    require_devices(device, job.devices)
    first = place * job.devices
    say(f"machine {place + 1} of {job.nodes}: {job.devices} of {job.world_size} processes train here")
    ranks = Ranks(folder.path)
    try:
        with (folder.path / f"node-{place}.log").open("ab") as log:
            log.write(f"{socket.gethostname()}\n".encode())
            log.flush()
            for rank in range(first, first + job.devices):
                ranks.start(replace(job, rank=rank), threads_of_each(device, job.devices), log)
        _watch(ranks, lambda: is_there(store), should_stop)
    except Stopped:
        write_error(folder.path, first, _taken(place))
        raise
    finally:
        ranks.leave_word()
        ranks.end()
    say("the training has ended")


def _await(folder: RunFolder, should_stop: Callable[[], bool]) -> Invitation:
    while (found := find_invitation(folder.path)) is None:
        if folder.manifest.exists():
            raise RunError("the run is finished, and has no work for this machine", code="run.finished")
        if should_stop():
            raise Stopped("stopped while waiting for the training to begin")
        time.sleep(_LOOK_SECONDS)
    return found


def _taken(place: int) -> WorkerError:
    return WorkerError(
        "a machine was taken from the training, which cannot go on without it",
        code="worker.rank_died",
        value=f"machine {place + 1}: {socket.gethostname()}",
        hint="resume the run, and run `tunesmith join` there again",
    )


def _watch(ranks: Ranks, owner_is_there: Callable[[], bool], should_stop: Callable[[], bool]) -> None:
    looked, lost = time.monotonic(), 0
    while ranks.running():
        if should_stop():
            raise Stopped("this machine was taken from the training, which ends with that and can be resumed")
        time.sleep(_LOOK_SECONDS)
        if time.monotonic() - looked > _LOST_SECONDS:
            looked = time.monotonic()
            # Ranks that have just been told that training is over need a moment to end.
            lost = 0 if owner_is_there() else lost + 1
            if lost > _MOST_LOST:
                raise WorkerError("the machine that owns the run is gone", code="worker.unreachable")
    error = ranks.error() if ranks.failed() else None
    if error is not None:
        raise error
