"""Where things lie in a run folder, and where run folders lie."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import OutputError, Problem, RunError
from tunesmith.runs.atomic import read_json, telling_output_errors

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run. Making this value touches no disk."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name: its folder's name."""
        return self.path.name

    @property
    def recipe(self) -> Path:
        """The recipe as the user gave it."""
        return self.path / "recipe.yaml"

    @property
    def resolved(self) -> Path:
        """Every value with its reason; see :mod:`tunesmith.recipe.resolve`."""
        return self.path / "resolved.json"

    @property
    def plan(self) -> Path:
        """What memory and time were predicted before the run."""
        return self.path / "plan.json"

    @property
    def events(self) -> Path:
        """The only progress channel, one JSON object a line."""
        return self.path / "events.jsonl"

    @property
    def control(self) -> Path:
        """What the run should do next: continue, pause or cancel."""
        return self.path / "control.json"

    @property
    def resume(self) -> Path:
        """How the next attempt is to share the work, where that was asked for; gone once it is resolved."""
        return self.path / "resume.json"

    @property
    def lease(self) -> Path:
        """Which worker owns the run, and until when."""
        return self.path / "lease.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints, one folder a step."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The trained adapter in PEFT's format, for techniques that train one."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """The trained model, for techniques that change all weights."""
        return self.path / "model"

    @property
    def base(self) -> Path:
        """The model before training, where another run's adapter had to be worked into its weights first."""
        return self.path / "base"

    @property
    def audit(self) -> Path:
        """What the supervision audit found."""
        return self.path / "audit.json"

    @property
    def evaluation(self) -> Path:
        """Folder with the answers of each evaluated system, kept so that a resumed run need not repeat them."""
        return self.path / "evaluation"

    @property
    def report_json(self) -> Path:
        """The before/after report as data."""
        return self.path / "report.json"

    @property
    def report_markdown(self) -> Path:
        """The before/after report as Markdown."""
        return self.path / "report.md"

    @property
    def report_html(self) -> Path:
        """The before/after report as one self-contained page."""
        return self.path / "report.html"

    @property
    def exports(self) -> Path:
        """Folder of the exports that the recipe asked for, one folder each."""
        return self.path / "exports"

    @property
    def manifest(self) -> Path:
        """Hashes, versions, seed and counts; written last, so its presence means that the run is whole."""
        return self.path / "manifest.json"

    @property
    def service_model(self) -> Path:
        """What the tuned model is called that a service made and keeps, and where that is; only of such runs."""
        return self.path / "service_model.json"

    @property
    def log(self) -> Path:
        """What the worker's libraries printed."""
        return self.path / "worker.log"

    def read_manifest(self) -> dict[str, Any] | None:
        """The manifest, or None while the run is not finished."""
        return read_json(self.manifest) if self.manifest.exists() else None

    def base_folder(self) -> Path | None:
        """Where the model lies that a finished run was trained from; None where it is not there any more."""
        model = (self.read_manifest() or {}).get("model")
        folder = model.get("folder") if isinstance(model, dict) else None
        place = (self.path / str(folder)).resolve() if folder else None
        return place if place is not None and (place / "config.json").is_file() else None


def default_runs_folder() -> Path:
    """``runs`` under TUNESMITH_HOME, or in the current folder."""
    home = os.environ.get("TUNESMITH_HOME")
    return Path(home).expanduser() / "runs" if home else Path("runs")


def check_name(name: str) -> str:
    """Return the name if it may be a folder's name on every system.

    Raises:
        RunError: The name is empty, too long, or has characters other than letters, digits, ``.``, ``_`` and ``-``.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise RunError(
            "not a usable run name",
            code="run.name",
            value=repr(name),
            hint="use letters, digits, '.', '_' and '-', at most 80, starting with a letter or digit",
        )
    return name


def free_name(runs_folder: Path, stem: str) -> str:
    """The first of ``stem-1``, ``stem-2``, ... that is not taken."""
    number = 1
    while (runs_folder / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


def create_run(runs_folder: Path, name: str) -> RunFolder:
    """Make an empty run folder; the folder's creation is the lock against a second run of that name.

    Raises:
        RunError: A run of that name exists.
        OutputError: The folder cannot be written.
    """
    path = runs_folder / check_name(name)
    with telling_output_errors(path):
        runs_folder.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir()
        except FileExistsError:
            raise RunError(
                "a run of this name exists already",
                code="run.exists",
                value=name,
                hint=f"choose another --name, continue it with `tunesmith runs resume {name}`, "
                f"or remove it with `tunesmith runs remove {name}`",
            ) from None
    return RunFolder(path)


def find_run(runs_folder: Path, name: str) -> RunFolder:
    """The run of that name, or the run folder at that path.

    Raises:
        RunError: There is no such run; the message lists what is there.
    """
    for candidate in (Path(name), runs_folder / name):
        if (candidate / "recipe.yaml").is_file():
            return RunFolder(candidate.resolve())
    known = ", ".join(run.name for run in list_runs(runs_folder)[:8]) or "none"
    raise RunError(
        "no such run", code="run.missing", place=str(runs_folder), value=name, hint=f"runs that are here: {known}"
    )


def list_runs(runs_folder: Path) -> list[RunFolder]:
    """All runs of a folder, oldest first."""
    if not runs_folder.is_dir():
        return []
    found = [path for path in runs_folder.iterdir() if (path / "recipe.yaml").is_file()]
    return [RunFolder(path) for path in sorted(found, key=lambda path: (path / "recipe.yaml").stat().st_mtime)]


def remove_run(run: RunFolder) -> None:
    """Delete a run. Its recipe goes first, so that a half-removed folder no longer counts as a run.

    Raises:
        OutputError: Something could not be deleted; the message names it.
    """
    run.recipe.unlink(missing_ok=True)
    problems: list[Problem] = []

    def note(_function: object, path: str, information: tuple[type, BaseException, object]) -> None:
        problems.append(Problem("output.remove", "could not be deleted", place=path, value=str(information[1])))

    shutil.rmtree(run.path, onerror=note)
    if problems:
        raise OutputError("the run was not removed completely", code="output.remove", problems=problems)
