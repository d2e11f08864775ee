"""Export models: what can be said of a request without loading anything, and then a worker."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import OutputError, UsageError
from tunesmith.formats.inspect import inspect_source
from tunesmith.jobs.deploying import use_of
from tunesmith.jobs.stages import export as export_stage
from tunesmith.jobs.stages import make_usable
from tunesmith.recipe.exports import ExportSpec, folder_name, misfit
from tunesmith.registry.references import add_reference
from tunesmith.runs.events import Event
from tunesmith.runs.layout import default_runs_folder

EXPORTS = "exports"


@dataclass(frozen=True)
class ExportRequest:
    """What a user asks for.

    Attributes:
        models: Names of models; several for adapters on one base.
        to: The form.
        precision: ``auto`` for that of form or target.
        target: Hardware that takes a form of its own.
        provider: ONNX Runtime's execution provider.
        output: The folder to make; None for one below exports/.
        data: A file of rows to check on; None for a run's own held-out rows, or samples.
        rows: How many rows are checked; None for the usual number.
    """

    models: Sequence[str]
    to: str
    precision: str = "auto"
    target: str | None = None
    provider: str = "cpu"
    output: Path | None = None
    data: str | None = None
    rows: int | None = None

    @property
    def folder(self) -> Path:
        """Where the export will be."""
        if self.output is not None:
            return self.output.absolute()
        stem = re.sub(r"[^A-Za-z0-9._-]", "-", Path(self.models[0]).name) or "model"
        spec = ExportSpec.model_validate({"to": self.to, "precision": self.precision, "target": self.target})
        return (Path(EXPORTS) / f"{stem}-{folder_name(spec)}").absolute()


def export(
    request: ExportRequest,
    on_event: Callable[[Event], None],
    *,
    runs_folder: Path | None = None,
    command: Sequence[str] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Export and check; gives the folder and its record. Registered versions get a reference to the folder.

    Raises:
        UsageError: ``usage.export``: form, precision and target do not go together, or several models are named for
            a form that takes one.
        OutputError: ``output.exists``.
        TunesmithError: The worker's error; then there is no such folder.
    """
    _require_sensible(request)
    asked: dict[str, Any] = {
        "models": list(request.models),
        "to": request.to,
        "precision": request.precision,
        "target": request.target,
        "provider": request.provider,
        "output": str(request.folder),
        "data": request.data,
        "rows": request.rows,
    }
    make_usable(request.models, on_event, runs_folder=runs_folder)
    record = export_stage(asked, on_event, runs_folder=runs_folder, command=command)
    for model in request.models:
        # Whoever has the export can find out what it was made of as long as the version is there.
        used = use_of(model, runs_folder or default_runs_folder())
        if used is not None:
            add_reference(used.store, used.address.name, used.version.number, "export", str(request.folder))
    return request.folder, record


def _require_sensible(request: ExportRequest) -> None:
    reason = misfit(request.to, request.precision, request.target)
    if reason is not None:
        raise UsageError(reason, code="usage.export", hint="see `tunesmith export --help`")
    if len(request.models) > 1 and request.to != "onnx-adapter":
        raise UsageError(
            "this form holds one model",
            code="usage.export",
            value=" ".join(request.models),
            hint="export each by itself; --to onnx-adapter takes several runs of one base",
        )
    if request.provider != "cpu" and not request.to.startswith("onnx"):
        raise UsageError(
            "only ONNX forms have execution providers",
            code="usage.export",
            place="--ep",
            value=request.provider,
            hint="leave --ep out",
        )
    if request.folder.exists():
        raise OutputError(
            "the folder exists already",
            code="output.exists",
            place=str(request.folder),
            hint="remove it, or name another with --output",
        )
    if request.data is not None:
        # Cheap to look at now and dear to find out after a model is loaded.
        inspect_source(request.data).require_usable("refuse")
