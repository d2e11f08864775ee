"""Checkpoints: all that a training needs to go on as if it had never stopped.

    step-00000120/
      weights.safetensors     the trained weights
      optimizer.safetensors   moments and step counts of the optimizer
      random.safetensors      torch's random state
      state.json              counts, time, clock of the schedule, data cursor, identity, versions
      manifest.json           size and sha256 of each of those, written last

A folder is written aside, flushed and renamed, so it is there whole or not at all; nothing in it is a pickle. What
does not match its manifest is never read. Tensors that are gathered one after another are written in parts, the second
one as ``weights-2.safetensors``, so that no process holds all of them.
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors.torch import load_file, save_file

from tunesmith.engine.patience import Best
from tunesmith.engine.schedule import Clock
from tunesmith.errors import CheckpointError, Problem
from tunesmith.runs.atomic import (
    SCRATCH_MARK,
    new_folder,
    read_json,
    remove_scratch,
    telling_output_errors,
    write_json,
)
from tunesmith.strategies.tensors import Tensors
from tunesmith.techniques.saving import telling_save_errors

# 2: tensors may lie in several files.
FORMAT = 2
_NAME = re.compile(r"step-(\d{8,})")
_TENSOR_PARTS = ("weights", "optimizer", "random")
_FILES = (*(f"{part}.safetensors" for part in _TENSOR_PARTS), "state.json")
_FURTHER = re.compile(rf"({'|'.join(_TENSOR_PARTS)})-(\d{{1,6}})\.safetensors", re.ASCII)
# Of one file, where tensors come one after another.
FILE_BYTES = 2**27
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class CheckpointState:
    """A training between two steps: ``step`` steps are done.

    ``cursor`` is all that the data needs: seed and step. ``identity`` holds what must be the same when training goes
    on; ``versions`` those of the libraries that wrote it.
    """

    step: int
    clock: Clock
    elapsed_seconds: float
    tokens: int
    trained_tokens: int
    cursor: dict[str, int]
    identity: dict[str, Any]
    versions: dict[str, str]
    best: Best | None = field(kw_only=True, default=None)
    weights: Tensors = field(repr=False)
    optimizer: Tensors = field(repr=False)
    random: State = field(repr=False)


@dataclass(frozen=True)
class Found:
    """The newest whole checkpoint, or None where there is none at all, and what is wrong with newer ones."""

    path: Path | None
    broken: tuple[Path, ...] = ()
    problems: tuple[Problem, ...] = ()


class Checkpoints:
    """The checkpoints of one run; the newest ``keep`` of them stay."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def names(self) -> list[str]:
        """Checkpoints that are there, oldest first, whole or not."""
        if not self.folder.is_dir():
            return []
        found = [(int(match[1]), path.name) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        return [name for _, name in sorted(found)]

    def path_of(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"step-{step:08d}"

    def save(self, state: CheckpointState) -> Path:
        """Write a checkpoint; when it is whole on disk, remove those that are too many, but never the best one.

        Raises:
            OutputError: The disk is full or the folder cannot be written; earlier checkpoints are untouched.
        """
        path = self.path_of(state.step)
        with new_folder(path) as scratch:
            for part in _TENSOR_PARTS:
                for number, tensors in enumerate(_file_by_file(getattr(state, part)), start=1):
                    with telling_save_errors(path):
                        save_file(tensors, scratch / _file_name(part, number))
            write_json(scratch / "state.json", _to_json(state))
            write_json(scratch / "manifest.json", {"format": FORMAT, "files": _describe(scratch)})
        best = None if state.best is None else self.path_of(state.best.step).name
        for name in self.names()[: -max(self.keep, 1)]:
            if name != best:
                self._remove(self.folder / name)
        return path

    def latest(self) -> Path | None:
        """The newest whole checkpoint; see :meth:`find`."""
        return self.find().path

    def find(self) -> Found:
        """The newest checkpoint that matches its manifest; None where no checkpoint was ever saved.

        Raises:
            CheckpointError: There are checkpoints, and none of them is whole.
        """
        broken: list[Path] = []
        problems: list[Problem] = []
        for name in reversed(self.names()):
            path = self.folder / name
            wrong = _check(path)
            if not wrong:
                return Found(path, tuple(broken), tuple(problems))
            broken.append(path)
            problems.extend(wrong)
        if broken:
            raise CheckpointError(
                "no checkpoint of the run is whole",
                code="checkpoint.broken",
                place=str(self.folder),
                hint="remove this folder to start over from the beginning",
                problems=problems,
            )
        return Found(None)

    def load(self, path: Path) -> CheckpointState:
        """Read a checkpoint.

        Raises:
            CheckpointError: It does not match its manifest, or is of a later version.
        """
        _require_whole(path)
        raw = read_json(path / "state.json")
        raw["clock"] = Clock(**raw["clock"])
        raw["best"] = Best(**raw["best"]) if raw.get("best") else None
        raw |= {part: _tensors(path, part) for part in _TENSOR_PARTS}
        return CheckpointState(**raw)

    def load_weights(self, path: Path) -> State:
        """The weights of a checkpoint alone; errors as in :meth:`load`."""
        _require_whole(path)
        return _tensors(path, "weights")

    def set_aside(self, path: Path) -> Path:
        """Rename a broken checkpoint, so that it neither counts nor stands in the way; returns its new place."""
        aside = path.with_name(f"broken-{path.name}")
        with telling_output_errors(path):
            if aside.exists():
                shutil.rmtree(aside)
            return path.rename(aside)

    def clean(self) -> None:
        """Remove what a killed process left half-written or half-removed."""
        if self.folder.is_dir():
            remove_scratch(self.folder)

    def _remove(self, path: Path) -> None:
        # Under its own name a half-removed checkpoint would look like a broken one.
        scratch = path.with_name(f".{path.name}{SCRATCH_MARK}{uuid.uuid4().hex[:8]}")
        with telling_output_errors(path):
            shutil.rmtree(path.rename(scratch))


def _to_json(state: CheckpointState) -> dict[str, Any]:
    left_out = set(_TENSOR_PARTS)
    values = {name: value for name, value in vars(state).items() if name not in left_out}
    best = None if state.best is None else asdict(state.best)
    return {**values, "clock": asdict(state.clock), "best": best}


def _file_by_file(tensors: Tensors) -> Iterator[State]:
    """What goes into each file; at least one, which may be empty. What is there anyway goes into one."""
    most = math.inf if isinstance(tensors, dict) else FILE_BYTES
    found: State = {}
    held = 0
    for name, tensor in tensors.items():
        if found and held + tensor.nbytes > most:
            yield found
            # Written by now; whoever wrote it may still name it, and must not hold it while the next ones are gathered.
            found.clear()
            held = 0
        found[name] = tensor.cpu().contiguous()
        held += tensor.nbytes
    yield found


def _file_name(part: str, number: int) -> str:
    return f"{part}.safetensors" if number == 1 else f"{part}-{number}.safetensors"


def _files_of(manifest: dict[str, Any]) -> list[str]:
    """Names of the files that are always there, and of further parts; a manifest cannot name others."""
    return [*_FILES, *sorted(name for name in manifest["files"] if _FURTHER.fullmatch(name))]


def _tensors(folder: Path, part: str) -> State:
    """All tensors of a part, however many files it has."""
    found: State = {}
    for name in _files_of(read_json(folder / "manifest.json")):
        if name.endswith(".safetensors") and re.split(r"[-.]", name)[0] == part:
            found |= load_file(folder / name)
    return found


def _describe(folder: Path) -> dict[str, dict[str, Any]]:
    names = sorted(path.name for path in folder.iterdir())
    return {name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in names}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_whole(folder: Path) -> None:
    problems = _check(folder)
    if problems:
        raise CheckpointError("the checkpoint is not whole", place=str(folder), problems=problems)


def _check(folder: Path) -> list[Problem]:
    """What is wrong with a checkpoint's files; empty where all match the manifest."""
    try:
        manifest = read_json(folder / "manifest.json")
        if manifest["format"] > FORMAT:
            found = str(manifest["format"])
            return [Problem("checkpoint.format", "written by a later version", str(folder), f"format {found}")]
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
        there = {path.name for path in folder.iterdir() if _FURTHER.fullmatch(path.name)}
        names = sorted({*_files_of(manifest), *there})
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        place = str(folder / "manifest.json")
        return [Problem("checkpoint.manifest", "the manifest cannot be read", place, str(error))]
    problems = []
    for name in names:
        path = folder / name
        wrong = _compare(path, files.get(name))
        if wrong:
            problems.append(Problem("checkpoint.file", "the file does not match the manifest", str(path), wrong))
    return problems


def _compare(path: Path, expected: tuple[int, str] | None) -> str | None:
    if expected is None:
        return "not in the manifest"
    try:
        size = path.stat().st_size
        if size != expected[0]:
            return f"{size} bytes instead of {expected[0]}"
        return None if _sha256(path) == expected[1] else "its contents changed (sha256 differs)"
    except OSError as error:
        return error.strerror or str(error)
