"""Checkpoints of registered runs: which there are, and a worker that makes one usable when it is asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tunesmith.catalog.bases import BaseModel, describe_base
from tunesmith.catalog.cache import cache_folder
from tunesmith.catalog.registered import Registered, bring_out_registered, find_registered
from tunesmith.catalog.registering import adapter_config, base_files
from tunesmith.catalog.resolve import ModelReference, resolve_model
from tunesmith.jobs.stages import OnEvent, checkpoints, pull
from tunesmith.registry.reading import no_checkpoint
from tunesmith.registry.versions import Version
from tunesmith.registry.writing import add_checkpoint
from tunesmith.runs.atomic import read_json
from tunesmith.runs.layout import RunFolder
from tunesmith.storage.store import Store

_STEP = re.compile(r"step-(\d{8,})", re.ASCII)


def make_usable(
    model: str, on_event: OnEvent, *, runs_folder: Path | None = None, command: Sequence[str] | None = None
) -> None:
    """See to it that a model can be used, where it is a checkpoint of the registry that nobody asked for before.

    Raises:
        ModelError: The address means nothing; ``registry.no_checkpoint``.
        CheckpointError: The checkpoint is not whole, or the run removes it at this moment.
        TunesmithError: The worker's error.
    """
    reference = resolve_model(model, runs_folder or Path("runs"))
    found = reference.registered
    if found is not None and found.needs_checkpoint:
        assert found.address.step is not None
        keep_checkpoints(found.store, found.version, [found.address.step], on_event, command=command)


def keep_checkpoints(
    store: Store, version: Version, steps: Sequence[int], on_event: OnEvent, *, command: Sequence[str] | None = None
) -> None:
    """Make checkpoints of a version's run usable, and keep them in the registry with all that they need.

    Raises:
        ModelError: ``registry.no_checkpoint``: the run has none of that step, or is not on this machine.
        TunesmithError: As :func:`make_usable`.
    """
    run = run_of(version)
    there = {} if run is None else checkpoint_folders(run)
    missing = [step for step in steps if step not in there]
    if run is None or missing:
        raise no_checkpoint(store, version, (missing or list(steps))[0], sorted(there))
    with checkpoints(run.path, [there[step] for step in steps], on_event, command=command) as folder:
        for step in steps:
            _keep(store, version, run, step, folder / there[step].name)


def run_of(version: Version) -> RunFolder | None:
    """The run that a version is made of, where it is on this machine still."""
    folder = version.claim.run_folder
    return RunFolder(Path(folder)) if folder is not None and (Path(folder) / "recipe.yaml").is_file() else None


def checkpoint_folders(run: RunFolder) -> dict[int, Path]:
    """The checkpoints that a run has at this moment, by step."""
    if not run.checkpoints.is_dir():
        return {}
    found = [(match, path) for path in run.checkpoints.iterdir() if (match := _STEP.fullmatch(path.name))]
    return {int(match[1]): path for match, path in found if (path / "manifest.json").is_file()}


def brought_here(reference: ModelReference, runs_folder: Path, on_event: OnEvent) -> ModelReference:
    """The same with its folder, where it is a version of the registry; any other as it is.

    Raises:
        TunesmithError: As :func:`make_usable`; files of the version are missing or changed.
    """
    found = reference.registered
    if found is None:
        return reference
    if found.needs_checkpoint:
        make_usable(reference.name, on_event, runs_folder=runs_folder)
        found = find_registered(reference.name, found.store)
    if found.store.local is None:
        # A worker tells how much has come.
        pull(reference.name, on_event, runs_folder=runs_folder)
    return replace(reference, path=_out(found), registered=found)


def _out(found: Registered) -> Path:
    return bring_out_registered(found, cache_folder())


def _keep(store: Store, version: Version, run: RunFolder, step: int, usable: Path) -> None:
    base = _base_of(run, usable, with_base=version.claim.with_base)
    files = {path.relative_to(usable).as_posix(): path for path in sorted(usable.rglob("*")) if path.is_file()}
    files |= base_files(base)
    files |= {name: run.path / name for name in ("recipe.yaml", "resolved.json")}
    if (usable / "adapter").is_dir():
        files["adapter/adapter_config.json"] = adapter_config(usable / "adapter", base.facts, usable.parent)
    add_checkpoint(store, version, step, files, base.facts)


def _base_of(run: RunFolder, usable: Path, *, with_base: bool) -> BaseModel:
    model = read_json(usable / "manifest.json")["model"]
    folder = (run.path / str(model["folder"])).resolve()
    own = folder.is_relative_to(run.path.resolve())
    return describe_base(model, folder, own=own, needed=(usable / "adapter").is_dir(), with_base=with_base)
