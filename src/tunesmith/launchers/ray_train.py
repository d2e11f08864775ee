"""``python -m tunesmith.launchers.ray_train RUN --workers N``: the workers of Ray Train are the machines of a training.

This is the command of a Ray job, and the one place that knows Ray and torch both. Ray Train finds room for N workers,
starts them together, and starts them all anew when one has died. What each worker does is start a process: the first
one the worker that owns the run, the others ``--stage node``, which meets it and trains beside it. So nothing of Ray
gets near engine and strategies, and what a new group goes on from is the last checkpoint in the run's store; Ray is
told of none.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, get_context
from ray.train.torch import TorchConfig, TorchTrainer

from tunesmith.errors import WorkerError
from tunesmith.launchers.attempts import exit_code, is_passing, work
from tunesmith.storage.address import open_store
from tunesmith.storage.objects import ObjectStore
from tunesmith.storage.run_store import RunStore
from tunesmith.storage.turn import await_turn

# Where Ray Train keeps what it knows of its own doings.
_FOLDER = "ray"
# A worker that took a dead one's place waits until that one is known to be dead.
_MEETING_SECONDS = 1800
_LOOK_SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Bring a run to its end; returns the exit code of its last worker."""
    parser = argparse.ArgumentParser(prog="python -m tunesmith.launchers.ray_train", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="the address of a run in a store")
    parser.add_argument("--workers", type=int, required=True, help="how many machines train")
    parser.add_argument("--resources", type=json.loads, default={"CPU": 1}, help="what each asks of Ray, as JSON")
    parser.add_argument("--max-failures", type=int, default=3, help="how often a group that lost a worker is replaced")
    options = parser.parse_args(arguments)
    run = RunStore(open_store(options.run))
    ray.init()
    # Behind Ray, which has a handler of its own for it.
    signal.signal(signal.SIGTERM, lambda *_: _pause(run))
    try:
        _trainer(options.run, options.workers, options.resources, options.max_failures).fit()
    except TrainingFailedError as error:
        print(f"Ray Train has given up: {error}", file=sys.stderr)
        return _last_code(run) or WorkerError.exit_code
    return _last_code(run)


def take_part(settings: Mapping[str, Any]) -> None:
    """What each worker of Ray Train does.

    Raises:
        WorkerError: The process has died or failed in a way that may pass; Ray Train starts the group anew.
    """
    url, rank = str(settings["run"]), get_context().get_world_rank()
    run = RunStore(open_store(url))
    # All must know which attempt is theirs; what the group of Ray's own processes is good for is over with that.
    before = [await_turn(run) if rank == 0 else 0]
    dist.broadcast_object_list(before, src=0)
    if rank == 0:
        util: Any = ray.util
        code = work(url, "train", environment={"TUNESMITH_ADDRESS": util.get_node_ip_address()})
        is_over = False
    else:
        over = _seldom(lambda: _is_over(run, before[0]))
        code = work(url, "node", should_end=over)
        is_over = _is_over(run, before[0])
    if is_passing(code) and not is_over:
        raise WorkerError("a process of the training has died or failed", code="worker.rank_died", value=code)


def _trainer(url: str, workers: int, resources: Mapping[str, float], max_failures: int) -> TorchTrainer:
    path, files = own_storage(url)
    return TorchTrainer(
        take_part,
        train_loop_config={"run": url},
        # The ranks themselves meet by a group of their own, over nccl where there are GPUs.
        torch_config=TorchConfig(backend="gloo", timeout_s=_MEETING_SECONDS),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu="GPU" in resources, resources_per_worker=dict(resources)
        ),
        run_config=RunConfig(
            name=f"attempt-{time.time_ns()}",
            storage_path=path,
            storage_filesystem=files,
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )


def own_storage(url: str) -> tuple[str, Any]:
    """A place that all nodes see, which Ray Train asks for: a folder within the run, and how to get there."""
    store = open_store(url)
    if not isinstance(store, ObjectStore):
        return f"{store.url}/{_FOLDER}", None
    from pyarrow.fs import FSSpecHandler, PyFileSystem  # type: ignore[import-untyped]

    return f"{store.files._strip_protocol(store.url)}/{_FOLDER}", PyFileSystem(FSSpecHandler(store.files))


def _is_over(run: RunStore, before: int) -> bool:
    """Whether the worker of this group has come and gone."""
    last = run.last_attempt()
    return last is not None and last.number > before and last.code is not None


def _seldom(question: Callable[[], bool]) -> Callable[[], bool]:
    """The same question, asked every few seconds only: a store may be far away."""
    asked = time.monotonic()

    def ask() -> bool:
        nonlocal asked
        if time.monotonic() - asked < _LOOK_SECONDS:
            return False
        asked = time.monotonic()
        return question()

    return ask


def _pause(run: RunStore) -> None:
    """The cluster wants this job to end: let the run save a checkpoint, unless it was to stop for good anyway."""
    if run.wish() == "continue":
        run.write_wish("pause")


def _last_code(run: RunStore) -> int:
    last = run.last_attempt()
    return WorkerError.exit_code if last is None or last.code is None else exit_code(last.code)


if __name__ == "__main__":
    sys.exit(main())
