"""``python -m tunesmith.worker RUN_FOLDER --stage STAGE``: recipe in, events and artifacts out.

The exit code is that of the error class; the error itself is the last event. Nothing else is printed but what libraries
print, and that goes wherever the starter sent standard output.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tunesmith.errors import ResourceError, Stopped, TunesmithError, WorkerError
from tunesmith.models.quiet import quiet_imports
from tunesmith.runs.atomic import output_error
from tunesmith.runs.control import Wish, read_wish
from tunesmith.runs.events import EventWriter, open_events
from tunesmith.runs.layout import RunFolder
from tunesmith.runs.lease import Lease
from tunesmith.runs.parent import watch_parent
from tunesmith.storage.address import open_store
from tunesmith.storage.guest_copy import guest_copy
from tunesmith.storage.run_store import JOB, RunStore
from tunesmith.storage.turn import await_turn
from tunesmith.storage.working_copy import is_address, working_copy

STAGES = (
    "train",
    "rank",
    "node",
    "audit",
    "evaluate",
    "benchmark",
    "chart",
    "matrix",
    "export",
    "pull",
    "checkpoint",
    "count",
)
_STOP_SECONDS = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage in a folder; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tunesmith.worker", description=__doc__)
    parser.add_argument("folder", metavar="RUN", help="run folder, scratch folder of a stage, or a run in a store")
    parser.add_argument("--stage", choices=STAGES, default="train")
    parser.add_argument("--parent-pid", type=int, default=None, help="stop when this process ends")
    parser.add_argument(
        "--patience",
        type=float,
        default=0.0,
        help="seconds to wait for another worker of the run to end or fall silent",
    )
    parser.add_argument(
        "--asked-is-well",
        action="store_true",
        help="end with 0 where the run was asked to pause or cancel, for platforms that start again whatever fails",
    )
    options = parser.parse_args(arguments)
    # A library that forks after its threads have started would else warn into the log at every fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    quiet_imports()
    if options.parent_pid is not None:
        watch_parent(options.parent_pid, _stop)
    if is_address(options.folder):
        if options.stage == "node":
            return _guest(options.folder)
        return _of_store(options.folder, options.stage, options.patience, asked_is_well=options.asked_is_well)
    run = RunFolder(Path(options.folder).resolve())
    if options.stage == "rank":
        return _rank(run)
    if options.stage == "node":
        return _node(run)
    return _own(run, options.stage)


def _own(run: RunFolder, stage: str) -> int:
    """Work in a folder that no other worker may own meanwhile."""
    if (run.path / JOB).exists():
        # A run that was submitted has the files that its recipe names with it.
        os.chdir(run.path)
    try:
        with Lease(run.lease):
            return _work(run, stage)
    except TunesmithError as error:
        print("\n".join(error.lines()), file=sys.stderr)
        return error.exit_code


def _of_store(url: str, stage: str, patience_seconds: float, *, asked_is_well: bool) -> int:
    """Work for a run that lies in a store, in a folder that is kept equal to it."""
    try:
        run = RunStore(open_store(url))
        await_turn(run, patience_seconds=patience_seconds)
        with working_copy(url) as copy:
            copy.code = _own(copy.folder, stage)
        # The store is asked, since its word may just have come.
        asked = copy.code == Stopped.exit_code and run.wish() != "continue"
    except TunesmithError as error:
        print("\n".join(error.lines()), file=sys.stderr)
        return error.exit_code
    return 0 if asked and asked_is_well else copy.code


def _guest(url: str) -> int:
    """Lend this machine to a run that lies in a store; one that is over has no work for it, and that is well."""
    try:
        with guest_copy(url) as folder:
            # Its recipe names files of the run.
            os.chdir(folder.path)
            code = _node(folder)
            return 0 if code and _is_over(folder) else code
    except TunesmithError as error:
        print("\n".join(error.lines()), file=sys.stderr)
        return error.exit_code


def _is_over(run: RunFolder) -> bool:
    return run.manifest.exists() or read_wish(run.control) != "continue"


def _stop() -> None:
    """Stop as by SIGTERM, and with all processes that were started from here where that takes too long."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOP_SECONDS)
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(Stopped.exit_code)


def _rank(run: RunFolder) -> int:
    """One of the other ranks of a training; the worker that started it owns the run and speaks for it."""
    # Whoever wants an end tells that worker.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    from tunesmith.pipeline.meeting import use_device
    from tunesmith.pipeline.ranks import read_job, write_error
    from tunesmith.pipeline.train import run_rank

    job = read_job(0)
    try:
        use_device(job)
        run_rank(run, job)
    except Exception as error:
        traceback.print_exc()
        found = told(error)
        write_error(run.path, job.rank, found)
        return found.exit_code
    return 0


def _node(run: RunFolder) -> int:
    """Another machine's ranks; what it says goes to its terminal, for the run is not its own."""
    asked = _terminated(signal.SIGTERM, signal.SIGINT)
    from tunesmith.pipeline.node import run_node

    try:
        run_node(run, lambda line: print(line, flush=True), asked)
    except Exception as error:
        found = told(error)
        if found is not error:
            traceback.print_exc()
        print("\n".join(found.lines()), file=sys.stderr)
        return found.exit_code
    return 0


def _work(run: RunFolder, stage: str) -> int:
    events = open_events(run.events)
    try:
        _stage(stage)(run, events)
    except Exception as error:
        traceback.print_exc()
        found = told(error)
        # The disk may be what is full.
        try:
            _end(events, found, cancelled=read_wish(run.control) == "cancel")
        except TunesmithError as second:
            print("\n".join(second.lines()), file=sys.stderr)
        return found.exit_code
    return 0


def told(error: Exception) -> TunesmithError:
    """Any error as one of ours; what nobody foresaw is a WorkerError that names it."""
    if isinstance(error, TunesmithError):
        return error
    if isinstance(error, MemoryError):
        return ResourceError("not enough memory", code="resource.memory", hint="close other programs, or train less")
    if isinstance(error, OSError) and error.filename is not None:
        return output_error(error, Path(os.fsdecode(error.filename)))
    return WorkerError(
        "the worker failed in a way that nobody foresaw",
        code="worker.unexpected",
        value=f"{type(error).__name__}: {error}",
        hint="worker.log in the run folder has the details; please report it",
    )


def _end(events: EventWriter, error: TunesmithError, *, cancelled: bool) -> None:
    if isinstance(error, Stopped):
        events.emit("status", state="cancelled" if cancelled else "stopped")
    else:
        events.emit("status", state="failed")
        events.emit("error", **error.to_json())


def _stage(name: str) -> Callable[[RunFolder, EventWriter], None]:
    return {
        "train": _train,
        "audit": _audit,
        "evaluate": _evaluate,
        "benchmark": _benchmark,
        "chart": _chart,
        "matrix": _matrix,
        "export": _export,
        "pull": _pull,
        "checkpoint": _checkpoint,
        "count": _count,
    }[name]


def _train(run: RunFolder, events: EventWriter) -> None:
    asked = _terminated()
    # Imported only now: loading the libraries takes seconds, and a folder that another worker owns is told at once.
    from tunesmith.pipeline.kubeflow import telling_trainer
    from tunesmith.pipeline.train import run_training

    def wish() -> Wish:
        return "pause" if asked() else read_wish(run.control)

    with telling_trainer(run.events):
        run_training(run, events, wish)


def _audit(run: RunFolder, events: EventWriter) -> None:
    from tunesmith.pipeline.stages import run_audit

    run_audit(run.path, events)


def _evaluate(run: RunFolder, events: EventWriter) -> None:
    asked = _terminated()
    from tunesmith.pipeline.stages import run_evaluation

    run_evaluation(run.path, events, asked)


def _benchmark(run: RunFolder, events: EventWriter) -> None:
    asked = _terminated()
    from tunesmith.pipeline.benchmark import run_benchmark

    run_benchmark(run.path, events, asked)


def _chart(run: RunFolder, events: EventWriter) -> None:
    from tunesmith.pipeline.chart import run_chart

    run_chart(run.path, events)


def _matrix(run: RunFolder, events: EventWriter) -> None:
    from tunesmith.pipeline.matrix import run_matrix_pictures

    run_matrix_pictures(run.path, events)


def _export(run: RunFolder, events: EventWriter) -> None:
    # It is at no step where it could be asked, and leaves nothing behind wherever it is interrupted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from tunesmith.pipeline.export import run_export

    try:
        run_export(run.path, events)
    except KeyboardInterrupt as interrupt:
        raise Stopped("the export was stopped", code="export.stopped") from interrupt


def _pull(run: RunFolder, events: EventWriter) -> None:
    from tunesmith.pipeline.stages import run_pull

    run_pull(run.path, events)


def _checkpoint(run: RunFolder, events: EventWriter) -> None:
    from tunesmith.pipeline.checkpoint import run_checkpoints

    run_checkpoints(run.path, events)


def _count(run: RunFolder, events: EventWriter) -> None:
    from tunesmith.pipeline.counting import run_count

    run_count(run.path, events)


def _terminated(*signals: signal.Signals) -> Callable[[], bool]:
    """Make SIGTERM, or these signals, a wish to pause: a machine that is taken away loses nothing."""
    asked = False

    def note(_number: int, _frame: object) -> None:
        nonlocal asked
        asked = True

    for one in signals or (signal.SIGTERM,):
        signal.signal(one, note)
    return lambda: asked


if __name__ == "__main__":
    sys.exit(main())
