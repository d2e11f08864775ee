"""Bring a model or a run to where it can be talked to: its folders found, its inference process started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunesmith.catalog.cache import prepared_folder
from tunesmith.catalog.heads import read_head
from tunesmith.catalog.registered import require_own_base
from tunesmith.catalog.resolve import ModelReference, resolve_model
from tunesmith.errors import RunError, UsageError
from tunesmith.jobs.checkpoints import brought_here
from tunesmith.jobs.inference_process import start_inference
from tunesmith.jobs.stages import OnEvent, PulledModel, pull
from tunesmith.runs.atomic import read_json
from tunesmith.runs.layout import RunFolder
from tunesmith.wire.client import InferenceClient
from tunesmith.wire.serving import ServedModel

BASE = "base"
TUNED = "tuned"
Use = Literal["chat", "classify"]


@dataclass(frozen=True)
class Speaker:
    """Somebody to talk to: how to call it, and under which name its process answers."""

    label: str
    client: InferenceClient
    model: str


@contextmanager
def serve(
    name: str, runs_folder: Path, on_event: OnEvent, *, compare: bool = False, use: Use | None = None
) -> Iterator[list[Speaker]]:
    """Serve a model or a run while the block runs.

    Args:
        name: A folder, a run, a registered version, a catalog id or a hub id.
        runs_folder: Where runs lie.
        on_event: Gets the events of fetching a model that is not here yet.
        compare: Whether the base model of a run is wanted too; it then comes first.
        use: What it is wanted for, where that is known; what cannot be is refused before anything is loaded.

    Raises:
        UsageError: ``compare`` with something that is not a run and has no adapter; ``usage.classifies``,
            ``usage.encoder_decoder`` and ``usage.writes``: the model cannot be used so.
        ModelError: There is no such model.
        WorkerError: The process did not start.
    """
    reference = brought_here(resolve_model(name, runs_folder), runs_folder, on_event)
    run = reference.run
    place = find_place(reference, runs_folder) or pull(
        str(reference.path) if reference.kind == "run" else name, on_event, runs_folder=runs_folder
    )
    is_tuned = run is not None or place.adapter is not None
    if compare and not is_tuned:
        raise UsageError(
            "only a tuned model can be compared with its base",
            code="usage.compare",
            value=name,
            hint="name a run; `tunesmith runs list` shows them",
        )
    _require_use(name, place, use)
    own_name = TUNED if is_tuned else BASE
    models = [ServedModel(own_name, place.folder, place.adapter)]
    if compare and place.adapter is not None:
        models.insert(0, ServedModel(BASE, place.folder))
    with ExitStack() as stack:
        served = stack.enter_context(start_inference(models))
        speakers = [Speaker(own_name, served.client, own_name)]
        if len(models) > 1:
            speakers.insert(0, Speaker(BASE, served.client, BASE))
        elif compare and run is not None:
            base = _base_place(run, runs_folder) or pull(base_of(run), on_event, runs_folder=runs_folder)
            second = stack.enter_context(start_inference([ServedModel(BASE, base.folder)]))
            speakers.insert(0, Speaker(BASE, second.client, BASE))
        yield speakers


def _require_use(name: str, place: PulledModel, use: Use | None) -> None:
    has_head = read_head(place.adapter or place.folder) is not None
    if use == "chat" and has_head:
        raise UsageError(
            "this model puts labels on texts and writes none",
            code="usage.classifies",
            value=name,
            hint=f"ask it by `tunesmith classify {name}`, or tunesmith.load({name!r}).classify in Python",
        )
    config = place.folder / "config.json"
    if use == "chat" and config.is_file() and read_json(config).get("is_encoder_decoder"):
        raise UsageError(
            "models with encoder and decoder are not talked to here",
            code="usage.encoder_decoder",
            value=name,
            hint="`tunesmith eval` measures what it writes; other programs load the folder with AutoModelForSeq2SeqLM",
        )
    if use == "classify" and not has_head:
        raise UsageError(
            "this model has no head that puts labels on texts",
            code="usage.writes",
            value=name,
            hint=f"name a run with a head; a model that writes is asked by `tunesmith chat {name}`",
        )


def find_place(reference: ModelReference, runs_folder: Path) -> PulledModel | None:
    """Where a model lies that is on this machine ready for use; None where a worker must look or fetch.

    A worker would find the same, but only after it has loaded its libraries.
    """
    if reference.kind == "registry":
        return _place_of_version(reference, runs_folder)
    if reference.run is not None:
        return _place_of_run(reference.run, runs_folder)
    folder = prepared_folder(reference)
    return PulledModel(folder, None) if folder is not None and (folder / "config.json").is_file() else None


def _place_of_version(reference: ModelReference, runs_folder: Path) -> PulledModel | None:
    """A version that was brought out, on the base that it was trained on."""
    if reference.run is None:
        return None
    place = _place_of_run(reference.run, runs_folder)
    if place is not None and place.adapter is not None:
        require_own_base(reference.run.path, place.folder)
    return place


def _place_of_run(run: RunFolder, runs_folder: Path) -> PulledModel | None:
    if run.read_manifest() is None:
        return None
    if (run.model / "config.json").is_file():
        return PulledModel(run.model, None)
    place = _base_place(run, runs_folder)
    return PulledModel(place.folder, run.adapter) if place is not None and run.adapter.is_dir() else None


def _base_place(run: RunFolder, runs_folder: Path) -> PulledModel | None:
    """The base where the run had it; its name may mean another model where the current folder is another."""
    folder = run.base_folder()
    if folder is not None:
        return PulledModel(folder, None)
    base = resolve_model(base_of(run), runs_folder)
    # Models of runs are found by the worker.
    return None if base.kind in ("run", "registry") else find_place(base, runs_folder)


def base_of(run: RunFolder) -> str:
    """The name of the model that a finished run was trained from.

    Raises:
        RunError: The run is not finished.
    """
    model = (run.read_manifest() or {}).get("model")
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise RunError(
            "the run is not finished",
            code="run.not_finished",
            place=run.name,
            hint=f"finish it with `tunesmith runs resume {run.name}`",
        )
    return str(model["name"])
