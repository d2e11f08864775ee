"""The stage that measures a model by multiple choice and by tasks of the lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.errors import ModelError
from tunesmith.evaluation.harness import HarnessTasks, run_harness
from tunesmith.evaluation.metrics import compare_paired
from tunesmith.evaluation.multiple_choice import Scoring
from tunesmith.evaluation.report.write import write_report
from tunesmith.evaluation.robustness import ChoiceScores, choice_metrics, measure_choices, robustness_table
from tunesmith.formats.choices import ChoiceFile, read_choices
from tunesmith.formats.read import choose_rows
from tunesmith.models.attention import ATTENTION, supports_packing
from tunesmith.models.check import read_config
from tunesmith.models.host import probe_host
from tunesmith.models.load import load_tokenizer, model_facts
from tunesmith.models.prepare import PreparedModel
from tunesmith.pipeline.contestants import Contestants, find_contestants
from tunesmith.pipeline.environment import environment
from tunesmith.pipeline.finish import now, version
from tunesmith.pipeline.prepare import prepare_model
from tunesmith.pipeline.run import weights_type
from tunesmith.pipeline.told import Teller
from tunesmith.recipe.facts import HostFacts, ModelFacts
from tunesmith.recipe.resolved import Resolved, resolved_from_json
from tunesmith.runs.atomic import read_json
from tunesmith.runs.events import EventWriter
from tunesmith.runs.layout import default_runs_folder

_LABELS = {"base": "Base", "tuned": "Tuned"}


@dataclass(frozen=True)
class Benchmark:
    """What every contestant is measured by."""

    choices: ChoiceFile | None
    harness: HarnessTasks | None
    scoring: Scoring
    robustness: bool
    seed: int
    teller: Teller
    should_stop: Callable[[], bool]


@dataclass(frozen=True)
class Scored:
    """One contestant's scores; ``harness`` are the metrics of its tasks."""

    name: str
    choices: ChoiceScores | None
    harness: Mapping[str, Mapping[str, Any]]


def run_benchmark(folder: Path, events: EventWriter, should_stop: Callable[[], bool]) -> None:
    """Measure a model, a tuned one beside its base, and write the report.

    ``request.json`` names ``model`` and at least one of ``multiple_choice`` (a file) and ``harness`` (tasks); further
    keys are ``robustness``, ``rows``, ``samples``, ``seed``, ``harness_path``, ``runs_folder`` and ``called``, which is
    what the report calls the model.

    Raises:
        TunesmithError: Whatever is wrong with model, file or tasks.
        Stopped: The user asked to stop.
    """
    teller, request = Teller(events), read_json(folder / "request.json")
    teller.state("preparing", request["model"])
    choices = _chosen(request)
    runs_folder = Path(request["runs_folder"]) if request.get("runs_folder") else default_runs_folder()
    place = prepare_model(request["model"], runs_folder, teller)
    facts = model_facts(place.folder, request["model"])
    _require_causal(facts)
    resolved = _resolved_of(place)
    reason = supports_packing(read_config(place.folder), facts.context_length)
    if reason is not None:
        teller.warn([f"answers go through one at a time: {reason}"], "evaluate.layout")
    host = probe_host()
    contestants = find_contestants(
        place,
        runs_folder,
        teller,
        is_run=resolved is not None,
        device=host.device,
        dtype=torch.float32 if resolved is None else weights_type(resolved),
        attention=ATTENTION if reason is None else "sdpa",
    )
    benchmark = Benchmark(
        choices,
        _harness_tasks(request),
        Scoring(
            load_tokenizer(place.folder),
            facts.context_length,
            packed=reason is None,
            precision="float32" if resolved is None else resolved.precision,
        ),
        bool(request.get("robustness")),
        int(request.get("seed", 0)),
        teller,
        should_stop,
    )
    scored = _measure(benchmark, contestants)
    teller.state("reporting")
    write_report(_report(request, benchmark, scored, _model_part(request, place, facts), host), folder)
    events.emit("artifact", kind="report", path="report.html")
    teller.state("finished")


def _chosen(request: Mapping[str, Any]) -> ChoiceFile | None:
    """The questions that are measured: all of the file, or so many rows of it."""
    if not request.get("multiple_choice"):
        return None
    found = read_choices(request["multiple_choice"])
    rows = request.get("rows", "auto")
    if rows == "auto":
        return found
    chosen = choose_rows(len(found.questions), int(rows), int(request.get("seed", 0)))
    return ChoiceFile(found.name, found.sha256, tuple(found.questions[at] for at in chosen))


def _harness_tasks(request: Mapping[str, Any]) -> HarnessTasks | None:
    if not request.get("harness"):
        return None
    rows = request.get("rows", "auto")
    path = request.get("harness_path")
    return HarnessTasks(
        tuple(request["harness"]), None if path is None else Path(path), None if rows == "auto" else int(rows)
    )


def _require_causal(facts: ModelFacts) -> None:
    if facts.kind != "causal":
        raise ModelError(
            "only models that continue texts can be asked how likely an answer is",
            code="model.not_causal",
            place=facts.name,
            value=facts.kind,
            hint="name a causal language model",
        )


def _resolved_of(place: PreparedModel) -> Resolved | None:
    """The values of the run that is measured, None for a model that is none."""
    run = place.reference.run
    return None if run is None or not run.resolved.exists() else resolved_from_json(read_json(run.resolved))


def _measure(benchmark: Benchmark, contestants: Contestants) -> list[Scored]:
    model = contestants.load_base()
    benchmark.teller.state("evaluating_base", _detail(benchmark))
    scored = [_score("base", benchmark, model, contestants.attention)]
    if contestants.is_tuned:
        benchmark.teller.state("evaluating", _detail(benchmark))
        model = contestants.load_tuned(model)
        scored.append(_score("tuned", benchmark, model, contestants.attention))
    return scored


def _detail(benchmark: Benchmark) -> str:
    parts = [] if benchmark.choices is None else [f"{len(benchmark.choices.questions):,} questions"]
    parts += list(benchmark.harness.names) if benchmark.harness else []
    return ", ".join(parts)


def _score(name: str, benchmark: Benchmark, model: Any, attention: str) -> Scored:
    choices, harness = None, {}
    model.eval()
    if benchmark.choices is not None:
        choices = measure_choices(
            model,
            benchmark.choices.questions,
            benchmark.scoring,
            robustness=benchmark.robustness,
            seed=benchmark.seed,
            on_progress=lambda done, total: benchmark.teller.progress("evaluate", done, total, "questions"),
            should_stop=benchmark.should_stop,
        )
    if benchmark.harness is not None:
        # The harness calls the model in its own way, which attention for packs does not take.
        _set_attention(model, "sdpa")
        harness = run_harness(model, benchmark.scoring.tokenizer, benchmark.harness)
        _set_attention(model, attention)
    return Scored(name, choices, harness)


def _set_attention(model: Any, name: str) -> None:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if inner.config._attn_implementation != name:
        inner.set_attn_implementation(name)


def _model_part(request: Mapping[str, Any], place: PreparedModel, facts: ModelFacts) -> dict[str, Any]:
    return {
        "name": request.get("called", request["model"]),
        "source": place.source,
        "revision": place.revision,
        "parameters": facts.parameters,
        "licence": place.licence,
    }


def _report(
    request: Mapping[str, Any],
    benchmark: Benchmark,
    scored: Sequence[Scored],
    model: dict[str, Any],
    host: HostFacts,
) -> dict[str, Any]:
    choices = benchmark.choices
    systems = [choice_system(one.name, one.choices, one.harness, benchmark.seed) for one in scored]
    name = request["model"]
    return {
        "format": 1,
        "run": request.get("called") or (Path(name).name if Path(name).is_dir() else name),
        "created": now(),
        "tunesmith": version(),
        "task": "multiple choice" if choices is not None else "harness",
        "model": model,
        "primary_metric": next(iter(systems[0]["metrics"]), None),
        "systems": systems,
        "verdict": choice_verdict(scored[0].choices, scored[-1].choices, benchmark.seed) if len(scored) > 1 else None,
        "samples": [] if choices is None else choice_samples(choices, scored, request, benchmark.seed),
        "data": {} if choices is None else {"validation": _side(request, choices)},
        "environment": environment(host),
        "seed": benchmark.seed,
        "warnings": benchmark.teller.warnings,
    }


def _side(request: Mapping[str, Any], choices: ChoiceFile) -> dict[str, Any]:
    return {
        "source": str(request["multiple_choice"]),
        "files": [{"name": choices.name, "sha256": choices.sha256}],
        "used_rows": len(choices.questions),
    }


def choice_system(
    name: str, scores: ChoiceScores | None, harness: Mapping[str, Mapping[str, Any]], seed: int
) -> dict[str, Any]:
    """A contestant as one of the ``systems`` of a report."""
    metrics: dict[str, Any] = {} if scores is None else dict(choice_metrics(scores, seed))
    details = {} if scores is None or not scores.perturbed_B else {"robustness": robustness_table(scores)}
    found = {"name": name, "label": _LABELS[name], "metrics": {**metrics, **harness}, "details": details}
    # What the harness reads is not counted.
    return found if scores is None else {**found, "tokens": {"read": scores.tokens_read, "written": 0}}


def choice_verdict(base: ChoiceScores | None, tuned: ChoiceScores | None, seed: int) -> dict[str, Any] | None:
    """Tuned against base on the first metric of the questions; None where the harness alone was asked."""
    if base is None or tuned is None:
        return None
    metric = base.metrics[0]
    return compare_paired(metric, base.rows(metric), tuned.rows(metric), seed)


def choice_samples(
    choices: ChoiceFile, scored: Sequence[Scored], request: Mapping[str, Any], seed: int
) -> list[dict[str, Any]]:
    """Questions with the answer that each contestant finds most likely."""
    chosen = choose_rows(len(choices.questions), int(request.get("samples", 10)), seed)
    answering = [(one.name, one.choices) for one in scored if one.choices is not None]
    found = []
    for at in chosen:
        question = choices.questions[at]
        target = next(iter(question.targets.values()))
        true = [text for text, right in zip(target.texts, target.true, strict=True) if right]
        found.append(
            {
                "place": question.place,
                "prompt": "\n".join([question.question, *(f"- {text}" for text in target.texts)]),
                "reference": "\n".join(true),
                "answers": {name: scores.chosen_B[at] for name, scores in answering},
                "scores": {name: float(scores.chosen_B[at] in true) for name, scores in answering},
            }
        )
    return found
