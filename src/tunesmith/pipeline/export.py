"""The stage that exports a model: find it, choose rows, write the form, and check it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.catalog.heads import read_head
from tunesmith.errors import DataError, UsageError
from tunesmith.export.form import Options
from tunesmith.export.process import export_model
from tunesmith.export.source import Source, kind_of
from tunesmith.models.load import load_tokenizer, model_facts
from tunesmith.models.new_tokens import tokenizer_folder
from tunesmith.models.prepare import PreparedModel
from tunesmith.models.quantized import quantization_of
from tunesmith.pipeline.data import RunData, load_data, measured_data, with_labels
from tunesmith.pipeline.export_rows import CHECKED_ROWS, CheckedRows, rows_of_data, rows_of_samples
from tunesmith.pipeline.prepare import Prepared, prepare, prepare_model, resolve_run
from tunesmith.pipeline.told import Teller
from tunesmith.recipe.exports import ExportSpec, misfit
from tunesmith.recipe.load import load_recipe, parse_recipe
from tunesmith.recipe.resolved import Resolved, resolved_from_json
from tunesmith.recipe.schema import Recipe
from tunesmith.runs.atomic import read_json
from tunesmith.runs.events import EventWriter
from tunesmith.runs.layout import NAME_PATTERN, RunFolder, default_runs_folder


@dataclass(frozen=True)
class _Work:
    """Where models are looked for, and who is told."""

    runs_folder: Path
    teller: Teller


def run_export(folder: Path, events: EventWriter) -> None:
    """Export a model as ``request.json`` asks; ``output`` appears whole and checked, or not at all.

    Its keys: ``models`` (names; several for adapters on one base), ``to``, ``output`` (a folder to make), and if wanted
    ``precision``, ``target``, ``provider``, ``rows``, ``data``, ``runs_folder``.

    Raises:
        TunesmithError: Whatever is wrong with model, data or form; see :func:`tunesmith.export.process.export_model`.
    """
    teller, request = Teller(events), read_json(folder / "request.json")
    names: Sequence[str] = request["models"]
    _require_known(request)
    spec = ExportSpec(to=request["to"], precision=request.get("precision", "auto"), target=request.get("target"))
    runs_folder = Path(request["runs_folder"]) if request.get("runs_folder") else default_runs_folder()
    teller.state("preparing", names[0])
    places = [prepare_model(name, runs_folder, teller) for name in names]
    source = _with_more(source_of(places[0], names[0]), list(zip(names, places, strict=True))[1:])
    work = _Work(runs_folder, teller)
    rows = _rows(work, places[0], names[0], source, request)
    teller.state("exporting", f"{spec.to} {spec.chosen_precision}")
    record = export_source(source, spec, Path(request["output"]), rows, teller, provider=request.get("provider", "cpu"))
    events.emit("artifact", kind="export", path=str(request["output"]), to=spec.to, size_bytes=record["size_bytes"])
    teller.state("finished")


def _require_known(request: Mapping[str, Any]) -> None:
    reason = misfit(request["to"], request.get("precision", "auto"), request.get("target"))
    if reason is not None:
        raise UsageError(reason, code="usage.export")


def export_source(
    source: Source, spec: ExportSpec, target: Path, rows: CheckedRows, teller: Teller, *, provider: str = "cpu"
) -> dict[str, Any]:
    """One export of a source; see :func:`tunesmith.export.process.export_model`."""
    options = Options(
        precision=spec.chosen_precision,
        scratch=target,
        provider=provider,
        target=spec.target,
        calibration=rows.calibration,
        threads=torch.get_num_threads(),
        say=lambda message: teller.state("exporting", message),
        warn=lambda message: teller.warn([message], "export.note"),
    )
    return export_model(source, spec.to, target, rows.check, options)


def source_of(place: PreparedModel, name: str) -> Source:
    """A model on this machine as something to export.

    Raises:
        ModelError: ``export.encoder_decoder``.
    """
    head = read_head(place.adapter or place.folder)
    tokenizer = load_tokenizer(tokenizer_folder(place.folder, place.adapter))
    return Source(
        name=export_name(place, name),
        folder=place.folder,
        adapter=place.adapter,
        tokenizer=tokenizer,
        kind=kind_of(place.folder, head),
        head=head,
        quantization=None if place.adapter is None else quantization_of(place.adapter),
        context_length=model_facts(place.folder, name).context_length,
    )


def export_name(place: PreparedModel, name: str) -> str:
    """What files call a model: the run's or folder's own name, or the last part of an id."""
    path = place.reference.path
    own = path.name if path is not None else name.rpartition("/")[2]
    return own if NAME_PATTERN.fullmatch(own) else "model"


def _with_more(source: Source, others: Sequence[tuple[str, PreparedModel]]) -> Source:
    """The source with the adapters of further models.

    Raises:
        UsageError: ``export.several``: one has no adapter, stands on another base, or has a name that is taken.
    """
    more: dict[str, Path] = {}
    for name, place in others:
        own = export_name(place, name)
        same = place.adapter is not None and place.folder.samefile(source.folder)
        if not same or own in {source.name, *more} or quantization_of(place.adapter or place.folder):
            raise UsageError(
                "several models are exported together only as adapters of one base, each of another name",
                code="export.several",
                value=name,
                hint="name runs that were trained from the same whole base",
            )
        assert place.adapter is not None
        more[own] = place.adapter
    return replace(source, more_adapters=tuple(more.items()))


def _rows(work: _Work, place: PreparedModel, name: str, source: Source, request: Mapping[str, Any]) -> CheckedRows:
    """Rows of the file that is named, else the run's own held-out rows, else samples."""
    count = int(request.get("rows") or CHECKED_ROWS)
    run = place.reference.run
    data = request.get("data")
    if data is None and (run is None or not run.recipe.is_file()):
        return rows_of_samples(source, count)
    if data is None and run is not None:
        try:
            prepared, resolved = _of_run(work, run)
        except DataError as error:
            if place.reference.kind != "registry":
                raise
            # A version must be usable wherever it is brought; its data stays where the run was.
            work.teller.warn([f"{error.message}; samples take their place"], "export.data")
            return rows_of_samples(source, count)
        described = "held-out rows of the run"
    else:
        prepared, resolved = _of_file(work, str(data), name, source)
        described = f"rows of {Path(str(data)).name}"
    if source.kind == "encoder":
        return rows_of_samples(source, count)
    return rows_of_data(prepared, resolved, source, count, described)


def _of_run(work: _Work, run: RunFolder) -> tuple[Prepared, Resolved]:
    """The very rows that the run was measured on, where its data is still there."""
    recipe = load_recipe(run.recipe)
    # The run itself brings its base, its tokenizer and the tokens that it added.
    recipe = recipe.model_copy(
        update={"model": str(run.path), "data": recipe.data.model_copy(update={"new_tokens": ()})}
    )
    try:
        data = load_data(recipe.data, recipe.train.seed)
    except DataError as error:
        raise DataError(
            "the run's data is not to be had, so its held-out rows are not either",
            code="export.run_data",
            place=run.name,
            value=error.message,
            hint="start the command where the run was started, or give rows with --data FILE",
        ) from error
    manifest = run.read_manifest() or {}
    labels = tuple(manifest.get("task", {}).get("labels", ()))
    prepared = _prepare(work, recipe, with_labels(data, labels), _head_labels(run))
    known = manifest.get("data", {}).get("held_out")
    if known is not None and known != prepared.data.held_out_fingerprint():
        work.teller.warn(["the held-out rows are not those of the run any more: its data has changed"], "export.data")
    return prepared, resolved_from_json(read_json(run.resolved))


def _prepare(work: _Work, recipe: Recipe, data: RunData, labels: Sequence[str]) -> Prepared:
    return prepare(recipe, data, work.runs_folder, work.teller, labels=labels)


def _head_labels(run: RunFolder) -> tuple[str, ...]:
    head = read_head(run.adapter if run.adapter.is_dir() else run.model)
    return () if head is None else head.task_labels


def _of_file(work: _Work, data: str, name: str, source: Source) -> tuple[Prepared, Resolved]:
    recipe = _file_recipe(data, name, source)
    labels = () if source.head is None else source.head.task_labels
    rows = with_labels(measured_data(data, recipe.data, recipe.train.seed), labels)
    prepared = _prepare(work, recipe, rows, labels)
    return prepared, resolve_run(prepared)


def _file_recipe(data: str, name: str, source: Source) -> Recipe:
    return parse_recipe(
        {
            "model": name,
            "data": {"train": data},
            "objective": "auto" if source.head is None else source.head.kind,
            "evaluate": {"few_shot": 0},
        },
        "the request",
    )
