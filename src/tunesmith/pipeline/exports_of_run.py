"""The exports that a recipe asks for: refused early where they cannot be, made and checked after training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import Stopped, TunesmithError
from tunesmith.export.form import Options
from tunesmith.export.process import RECORD
from tunesmith.export.source import Source, kind_of
from tunesmith.export.table import score_form, text_form
from tunesmith.pipeline.export import export_source
from tunesmith.pipeline.export_rows import CHECKED_ROWS, rows_of_data
from tunesmith.pipeline.prepare import Prepared, head_of
from tunesmith.pipeline.told import Teller
from tunesmith.recipe.exports import ExportSpec, export_spec, folder_name
from tunesmith.recipe.resolved import Resolved
from tunesmith.runs.atomic import read_json
from tunesmith.runs.layout import RunFolder
from tunesmith.techniques.table import make_technique


def require_exports(prepared: Prepared, resolved: Resolved) -> None:
    """Refuse exports that cannot be made of this model or on this machine, before hours of training.

    Raises:
        ModelError: A form does not take the model.
        UsageError: What a form needs is not installed.
    """
    for spec in map(export_spec, prepared.recipe.export):
        if spec.to == "adapter":
            continue
        # Nothing is trained yet, so the base stands for the result.
        source = _source(prepared, resolved, "base", adapter=None, folder=prepared.model.folder)
        calibration = [prepared.train[row].token_ids_T.tolist() for row in range(min(8, len(prepared.train)))]
        options = Options(spec.chosen_precision, Path(), target=spec.target, longest=1, calibration=calibration)
        if spec.to == "onnx-adapter":
            text_form("onnx").require(source, options)
        elif source.kind == "text":
            text_form(spec.to).require(source, options)
        else:
            score_form(spec.to).require(source, options)


def make_exports(run: RunFolder, prepared: Prepared, resolved: Resolved, teller: Teller) -> Sequence[dict[str, Any]]:
    """Make each export that is not there yet, and say what came of it.

    One that fails is told, and leaves nothing; the trained model is there all the same.

    Raises:
        Stopped: The user asked the run to stop.
    """
    wanted = [export_spec(one) for one in prepared.recipe.export]
    return [_made(run, prepared, resolved, spec, teller) for spec in wanted]


def _made(run: RunFolder, prepared: Prepared, resolved: Resolved, spec: ExportSpec, teller: Teller) -> dict[str, Any]:
    target = run.exports / folder_name(spec)
    said: dict[str, Any] = {"to": spec.to, "precision": spec.chosen_precision, "target": spec.target}
    place = target.relative_to(run.path).as_posix()
    if target.exists():
        # An earlier attempt made and checked it.
        return {**said, "path": place, "size_bytes": read_json(target / RECORD)["size_bytes"]}
    teller.state("exporting", folder_name(spec))
    is_adapter = make_technique(resolved.technique).artifact == "adapter"
    source = _source(
        prepared,
        resolved,
        run.name,
        adapter=run.adapter if is_adapter else None,
        folder=prepared.model.folder if is_adapter else run.model,
    )
    try:
        rows = rows_of_data(prepared, resolved, source, CHECKED_ROWS, "held-out rows of the run")
        record = export_source(source, spec, target, rows, teller)
    except Stopped:
        raise
    except TunesmithError as error:
        teller.warn([f"not exported to {folder_name(spec)}: {'; '.join(error.lines())}"], "export.failed")
        return {**said, "path": None, "error": error.to_json()}
    teller.events.emit("artifact", kind="export", path=place, to=spec.to, size_bytes=record["size_bytes"])
    return {**said, "path": place, "size_bytes": record["size_bytes"]}


def _source(prepared: Prepared, resolved: Resolved, name: str, *, adapter: Path | None, folder: Path) -> Source:
    head = head_of(prepared, resolved.objective, resolved.seed)
    return Source(
        name=name,
        folder=folder,
        adapter=adapter,
        tokenizer=prepared.tokenizer,
        kind=kind_of(folder, head),
        head=head,
        quantization=None if adapter is None else make_technique(resolved.technique).quantization,
        context_length=prepared.model_facts.context_length,
        stop_token_ids=prepared.stop_token_ids,
    )
