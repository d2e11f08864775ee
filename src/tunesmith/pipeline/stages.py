"""What a worker can be asked for beside a whole run: to fetch a model, to audit a recipe, to measure a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.catalog.heads import Head, read_head
from tunesmith.errors import ModelError, UsageError
from tunesmith.evaluation.before_after import report_systems, samples, verdict
from tunesmith.evaluation.report.write import write_report
from tunesmith.evaluation.systems import Measured
from tunesmith.models.new_tokens import add_rows_up_to
from tunesmith.models.prepare import PreparedModel
from tunesmith.pipeline.contestants import find_contestants
from tunesmith.pipeline.data import load_data, measured_data, with_labels
from tunesmith.pipeline.environment import environment
from tunesmith.pipeline.finish import chosen_samples, data_part, judge_of, model_part, now, version
from tunesmith.pipeline.measure import Bench, make_bench, measure_base, measure_few_shot, measure_tuned
from tunesmith.pipeline.otherwise import require_other_ways, with_other_ways
from tunesmith.pipeline.planned import resolve_as_planned
from tunesmith.pipeline.prepare import Prepared, audit_run, data_facts, head_of, prepare, prepare_model, resolve_run
from tunesmith.pipeline.run import packing_attention, weights_type
from tunesmith.pipeline.told import Teller
from tunesmith.recipe.fitting import objective_of
from tunesmith.recipe.load import load_recipe, parse_recipe
from tunesmith.recipe.resolved import resolved_from_json
from tunesmith.recipe.schema import Recipe
from tunesmith.runs.atomic import read_json, write_json
from tunesmith.runs.events import EventWriter
from tunesmith.runs.layout import default_runs_folder


def run_pull(folder: Path, events: EventWriter) -> None:
    """Bring a model to this machine and tell where it lies.

    Raises:
        ModelError, NetworkError, OutputError: See :func:`tunesmith.models.prepare.ensure_model_folder`.
    """
    teller = Teller(events)
    teller.state("preparing", _request(folder)["model"])
    found = prepare_model(_request(folder)["model"], _runs_folder(_request(folder)), teller)
    adapter = None if found.adapter is None else str(found.adapter)
    events.emit("artifact", kind="model", path=str(found.folder), adapter=adapter)
    teller.state("finished")


def run_audit(folder: Path, events: EventWriter) -> None:
    """Audit a recipe's data under its model, and resolve the recipe where the audit finds nothing wrong.

    Raises:
        SupervisionError: A check failed; audit.json has the details.
        TunesmithError: Whatever is wrong with model or data.
    """
    teller = Teller(events)
    recipe = load_recipe(folder / "recipe.yaml")
    teller.state("preparing", recipe.model)
    runs_folder = _runs_folder(_request(folder))
    prepared = prepare(recipe, load_data(recipe.data, recipe.train.seed), runs_folder, teller)
    teller.state(
        "auditing", f"{len(prepared.train.items):,} training rows, {len(prepared.validation.items):,} held out"
    )
    found = audit_run(prepared, show=int(_request(folder).get("show", 0)))
    write_json(folder / "audit.json", found.to_json())
    events.emit("artifact", kind="audit", path="audit.json")
    write_json(folder / "facts.json", _facts(prepared))
    found.require_ok()
    write_json(folder / "resolved.json", resolve_as_planned(prepared, teller).to_json())
    events.emit("artifact", kind="resolved", path="resolved.json")
    teller.state("finished")


def _facts(prepared: Prepared) -> dict[str, Any]:
    """What a plan is made from."""
    return {
        "data": asdict(data_facts(prepared)),
        "model": asdict(prepared.model_facts),
        "host": asdict(prepared.host),
        "config": read_json(prepared.model.folder / "config.json"),
    }


def run_evaluation(folder: Path, events: EventWriter, should_stop: Callable[[], bool]) -> None:
    """Measure a model on rows, a tuned one beside its base, and write the report.

    The request's ``called`` is what the report calls the model, where that is not to be where it lies.

    Raises:
        TunesmithError: Whatever is wrong with model or data.
        Stopped: The user asked to stop.
    """
    teller, request = Teller(events), _request(folder)
    recipe = _evaluation_recipe(request, "auto")
    teller.state("preparing", recipe.model)
    data = measured_data(request["data"], recipe.data, recipe.train.seed)
    runs_folder = _runs_folder(request)
    model = prepare_model(recipe.model, runs_folder, teller)
    manifest = _manifest_of(model)
    head = read_head(model.adapter or model.folder)
    if head is not None:
        recipe = _evaluation_recipe(request, head.kind)
    recipe = _as_measured_then(recipe, model)
    labels = () if head is None else head.task_labels
    data = with_labels(data, labels or manifest.get("task", {}).get("labels", ()))
    prepared = prepare(recipe, data, runs_folder, teller, should_stop, labels=labels)
    _require_readable(head, prepared)
    resolved = resolve_run(prepared)
    attention = packing_attention(prepared, teller)
    bench = make_bench(prepared, resolved, folder / "evaluation", teller, attention=attention, should_stop=should_stop)
    systems = _measure(bench, attention, runs_folder, teller, manifest, robustness=bool(request.get("robustness")))
    judge = judge_of(resolved, prepared)
    tuned = systems[-1] if systems[-1].name == "tuned" else None
    found = verdict(systems[0], tuned, bench.held_out, judge) if tuned is not None else None
    report = {
        "format": 1,
        "run": request.get("called", recipe.model),
        "created": now(),
        "tunesmith": version(),
        "task": resolved.task,
        "model": {**model_part(prepared), "name": request.get("called", recipe.model)},
        "primary_metric": judge.metrics[0] if judge.metrics else "loss",
        "systems": report_systems(systems, bench.held_out, judge),
        "verdict": found,
        "samples": samples(systems, bench.held_out, judge, chosen_samples(bench.held_out, resolved)),
        "data": {"validation": data_part(prepared, len(bench.held_out.items))["validation"]},
        "environment": environment(prepared.host),
        "seed": resolved.seed,
        "warnings": teller.warnings,
    }
    teller.state("reporting")
    write_report(report, folder)
    events.emit("artifact", kind="report", path="report.html")
    teller.state("finished")


def _measure(
    bench: Bench,
    attention: str,
    runs_folder: Path,
    teller: Teller,
    manifest: dict[str, Any],
    *,
    robustness: bool,
) -> list[Measured]:
    """Base and few-shot of the base, then the tuned model where the name means one.

    With ``robustness`` base and tuned are also asked otherwise.
    """
    place, resolved = bench.prepared.model, bench.resolved
    contestants = find_contestants(
        place,
        runs_folder,
        teller,
        is_run=bool((manifest.get("model") or {}).get("name")),
        device=bench.prepared.host.device,
        dtype=weights_type(bench.resolved),
        attention=attention,
        head=read_head(place.adapter or place.folder) or head_of(bench.prepared, resolved.objective, resolved.seed),
    )
    model = contestants.load_base()
    # Rows may hold tokens that the tuned model learned and its base never had.
    add_rows_up_to(model, int(bench.prepared.validation.arrays["token_ids"].max(initial=0)))
    if robustness:
        require_other_ways(bench)
    teller.state("evaluating_base", f"{len(bench.held_out.items)} rows")
    base = measure_base(bench, model, folder=contestants.base_folder)
    systems = [with_other_ways(bench, model, base) if robustness else base, measure_few_shot(bench, model)]
    if contestants.is_tuned:
        teller.state("evaluating", f"{len(bench.held_out.items)} rows")
        model = contestants.load_tuned(model)
        tuned = measure_tuned(bench, model)
        systems.append(with_other_ways(bench, model, tuned) if robustness else tuned)
    return [system for system in systems if system is not None]


def _require_readable(head: Head | None, prepared: Prepared) -> None:
    """Refuse a head of another program whose tags are not in the order, or of the form, that is read here."""
    wanted = (
        None
        if head is None
        else head_of(
            prepared, objective_of(prepared.recipe, task="", shape="", model_kind=prepared.model_facts.kind), 0
        )
    )
    if head is not None and wanted is not None and wanted.labels != head.labels:
        raise ModelError(
            "the labels of the model's head are not in a form that can be measured",
            code="model.labels",
            place=str(prepared.model.folder),
            value=", ".join(head.labels[:6]),
            hint="tags are O and then B-x, I-x for each label x; other heads can be asked with `tunesmith classify`",
        )


def _evaluation_recipe(request: dict[str, Any], objective: str) -> Recipe:
    """The request as a recipe, so that its values are checked and resolved by the same rules."""
    few_shot = request.get("few_shot", "auto")
    return parse_recipe(
        {
            "model": request["model"],
            "data": {
                "train": request["data"],
                "columns": request.get("columns", "auto"),
                "shape": request.get("shape", "auto"),
                "on_bad_rows": request.get("on_bad_rows", "refuse"),
            },
            "task": request.get("task", "auto"),
            "objective": objective,
            "train": {"seed": request.get("seed", 0)},
            "evaluate": {
                "rows": request.get("rows", "auto"),
                "metrics": request.get("metrics", "auto"),
                # Examples would be taken from the rows to be measured, so they are shown only where asked for.
                "few_shot": 0 if few_shot == "auto" else few_shot,
                "max_new_tokens": request.get("max_new_tokens", "auto"),
                "samples": request.get("samples", 10),
            },
        },
        "the request",
    )


def _manifest_of(model: PreparedModel) -> dict[str, Any]:
    """The manifest of a run, empty for a model that is none."""
    run = model.reference.run
    return {} if run is None else run.read_manifest() or {}


def _as_measured_then(recipe: Recipe, model: PreparedModel) -> Recipe:
    """The recipe with the precision of the run that is measured, so that numbers do not differ by the machine."""
    run = model.reference.run
    if run is None or not run.resolved.exists():
        return recipe
    precision = resolved_from_json(read_json(run.resolved)).precision
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": precision})})


def _runs_folder(request: dict[str, Any]) -> Path:
    return Path(request["runs_folder"]) if "runs_folder" in request else default_runs_folder()


def _request(folder: Path) -> dict[str, Any]:
    path = folder / "request.json"
    if not path.exists():
        return {}
    request = read_json(path)
    if not isinstance(request, dict):
        raise UsageError("request.json must hold an object", code="usage.request", place=str(path))
    return request
