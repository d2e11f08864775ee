"""Bring a model or a run to where it can be talked to: its folders found, its inference process started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import UsageError
from tunesmith.jobs.inference_process import start_inference
from tunesmith.jobs.stages import OnEvent, PulledModel, pull
from tunesmith.runs.layout import RunFolder
from tunesmith.wire.client import InferenceClient

BASE = "base"
TUNED = "tuned"


@dataclass(frozen=True)
class Speaker:
    """Somebody to talk to: how to call it, and under which name its process answers."""

    label: str
    client: InferenceClient
    model: str


@contextmanager
def serve(name: str, runs_folder: Path, on_event: OnEvent, *, compare: bool = False) -> Iterator[list[Speaker]]:
    """Serve a model or a run while the block runs.

    Args:
        name: A folder, a run, a catalog id or a hub id.
        runs_folder: Where runs lie.
        on_event: Gets the events of fetching a model that is not here yet.
        compare: Whether the base model of a run is wanted too; it then comes first.

    Raises:
        UsageError: ``compare`` with something that is not a run and has no adapter.
        ModelError: There is no such model.
        WorkerError: The process did not start.
    """
    run = find_tuned_run(name, runs_folder)
    place = _place(name if run is None else str(run.path), on_event)
    is_tuned = run is not None or place.adapter is not None
    if compare and not is_tuned:
        raise UsageError(
            "only a tuned model can be compared with its base",
            code="usage.compare",
            value=name,
            hint="name a run; `tunesmith runs list` shows them",
        )
    adapters = [place.adapter] if place.adapter is not None else []
    own_name = TUNED if is_tuned else BASE
    with ExitStack() as stack:
        served = stack.enter_context(start_inference(place.folder, adapters, [own_name]))
        speakers = [Speaker(own_name, served.client, own_name)]
        if compare and adapters:
            speakers.insert(0, Speaker(BASE, served.client, BASE))
        elif compare and run is not None:
            base = _place(base_of(run), on_event)
            second = stack.enter_context(start_inference(base.folder, [], [BASE]))
            speakers.insert(0, Speaker(BASE, second.client, BASE))
        yield speakers


def find_tuned_run(name: str, runs_folder: Path) -> RunFolder | None:
    """The run that a model name means, None where it means something else."""
    from tunesmith.catalog.resolve import resolve_model

    reference = resolve_model(name, runs_folder)
    return RunFolder(reference.path) if reference.kind == "run" and reference.path is not None else None


def base_of(run: RunFolder) -> str:
    """The name of the model that a finished run was trained from."""
    manifest = run.read_manifest() or {}
    model = manifest.get("model")
    return str(model["name"]) if isinstance(model, dict) and "name" in model else BASE


def _place(name: str, on_event: OnEvent) -> PulledModel:
    return pull(name, on_event)
