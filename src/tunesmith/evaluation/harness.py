"""Tasks of EleutherAI's lm-evaluation-harness on a loaded model.

The library is optional; it is imported when a task is asked for. A task's data comes from a local file where the task
says so, and from the hub otherwise.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import NetworkError, UsageError, missing_extra
from tunesmith.models.quiet import quiet_libraries

_ROWS_AT_ONCE = 8
# Only of metrics that are no means; the others have a formula.
_RESAMPLES = 1000
# Of a normal distribution, so much of the standard error lies on either side of 95 %.
_DEVIATIONS = 1.96


@dataclass(frozen=True)
class HarnessTasks:
    """Names of tasks, a folder of task files of one's own, and how many rows of each task are taken."""

    names: tuple[str, ...]
    folder: Path | None = None
    rows: int | None = None


def run_harness(model: Any, tokenizer: Any, tasks: HarnessTasks) -> dict[str, dict[str, Any]]:
    """Every metric of every task as ``task/metric``, with a 95 % interval from the harness's standard error.

    Args:
        model: A causal language model in eval mode with an attention of the library's own.
        tokenizer: Of the model.
        tasks: What to run.

    Raises:
        UsageError: ``usage.missing_extra``: the library is not installed; ``usage.harness_task``: there is no such
            task, or its file is wrong.
        NetworkError: ``network.harness_data``: a task's data is not on this machine and cannot be fetched.
    """
    try:
        from lm_eval import simple_evaluate  # type: ignore[import-untyped]
        from lm_eval.models.huggingface import HFLM  # type: ignore[import-untyped]
        from lm_eval.tasks import TaskManager  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise missing_extra(
            "tasks of the harness need a library that is not installed", "evaluation", value=error.name
        ) from error
    with _quiet(), quiet_libraries():
        manager = _manager(TaskManager, tasks)
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=_ROWS_AT_ONCE)
        try:
            found: Any = simple_evaluate(
                wrapped,
                tasks=list(tasks.names),
                task_manager=manager,
                limit=tasks.rows,
                log_samples=False,
                bootstrap_iters=_RESAMPLES,
            )
        except Exception as error:
            if _is_network(error):
                raise NetworkError(
                    "the data of a task cannot be fetched",
                    code="network.harness_data",
                    place=", ".join(tasks.names),
                    value=f"{type(error).__name__}: {str(error).strip()[:200]}",
                    hint="fetch it while there is a network, or write a task file with a local file as its data",
                ) from error
            raise UsageError(
                "the harness cannot run these tasks",
                code="usage.harness_task",
                place=", ".join(tasks.names),
                value=f"{type(error).__name__}: {str(error).strip()[:300]}",
                hint="correct the task's file, or leave the task out",
            ) from error
    return metrics_of(found["results"], found["higher_is_better"])


def _manager(make: Any, tasks: HarnessTasks) -> Any:
    """The index of tasks: those of one's own folder where they are all there, else with the library's beside them."""
    folder = None if tasks.folder is None else str(tasks.folder)
    if folder is not None:
        own = make(include_path=folder, include_defaults=False)
        if all(name in own.all_tasks for name in tasks.names):
            return own
    manager = make(include_path=folder)
    unknown = [name for name in tasks.names if name not in manager.all_tasks]
    if unknown:
        raise UsageError(
            "the harness has no such task",
            code="usage.harness_task",
            value=", ".join(unknown),
            hint="`lm_eval ls tasks` lists its tasks; --harness-path names a folder with task files of your own",
        )
    return manager


def metrics_of(
    results: Mapping[str, Mapping[str, Any]], higher: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The harness's table as the metrics of a report."""
    metrics: dict[str, dict[str, Any]] = {}
    for task, values in results.items():
        for key, value in values.items():
            name, _, filtered = key.partition(",")
            if name.endswith("_stderr") or not filtered or isinstance(value, str):
                continue
            error = values.get(f"{name}_stderr,{filtered}")
            spread = _DEVIATIONS * error if isinstance(error, int | float) else None
            label = f"{task}/{name}" if filtered == "none" else f"{task}/{name}/{filtered}"
            metrics[label] = {
                "value": float(value),
                "low": None if spread is None else float(value) - spread,
                "high": None if spread is None else float(value) + spread,
                "higher_is_better": bool(higher.get(task, {}).get(name, True)),
            }
    return metrics


def _is_network(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is about a network that does not answer."""
    names = ("ConnectionError", "ConnectError", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "TimeoutError")
    while error is not None:
        if type(error).__name__ in names or isinstance(error, ConnectionError):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The harness's bars and advice stay out of the worker's log, and its uses are not counted anywhere.

    The library that reads the data would else tell a server of each file, local ones too.
    """
    import datasets.config  # type: ignore[import-untyped]

    counted = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, os.environ.get("TQDM_DISABLE")
    logger.setLevel(logging.ERROR)
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counted
        logger.setLevel(level)
        if bars is None:
            del os.environ["TQDM_DISABLE"]
