"""What a job would take, before it is made: tokens, steps, memory, time, price, and what its data are."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tunesmith.errors import TunesmithError
from tunesmith.jobs import stages
from tunesmith.jobs.counting import counted
from tunesmith.jobs.planning import Known, known_facts
from tunesmith.planner import calibration
from tunesmith.planner.changes import change_of
from tunesmith.planner.counted import Question, question_of, remembered
from tunesmith.planner.hardware import this_machine
from tunesmith.planner.plan import Plan, make_plan
from tunesmith.planner.strategy import choosing
from tunesmith.planner.trained import Counted
from tunesmith.recipe.load import dump_recipe
from tunesmith.recipe.refusal import Facts
from tunesmith.recipe.resolve import resolve
from tunesmith.runs.events import Event
from tunesmith.service.context import Context
from tunesmith.service.fine_tuning.create import Asked, files_of
from tunesmith.service.fine_tuning.examine import Examined, cost_of, examine, model_of
from tunesmith.service.fine_tuning.options import EXACT, PREVIEW, flag
from tunesmith.service.fine_tuning.turns import Turns
from tunesmith.service.shared.naming import offered

# A worker that counts tokens, or trained parameters, is waited for so long; then letters have to do.
EXACT_SECONDS = 40.0
_PREVIEW_ROWS = 5
# A worker loads a tokenizer and much else: one at a time. Each that waits holds one of the 40 threads in which every
# request of the process is let in, so that few may; the others are answered at once.
COUNTING = Turns(most_waiting=3)


class _TooLongError(Exception):
    """The worker took more time than there is."""


def full_estimate(context: Context, asked: Asked) -> dict[str, Any]:
    """Estimate a job without making it.

    Raises:
        ApiError: Whatever would be refused.
    """
    with files_of(context, asked.training, asked.validation) as files:
        found = examine(context, asked.question, files)
        known, warnings = found.known, [line for report in found.reports.values() for line in report.warnings]
        rows: list[dict[str, Any]] = []
        previews = flag(asked.wanted.tunesmith, PREVIEW)
        exact = previews or flag(asked.wanted.tunesmith, EXACT)
        if exact:
            known, told = _counted(context, found, rows if previews else None)
            warnings += told
    plan, told = _plan(context, asked.named.base, found, known, exact=exact)
    resolved = found.resolved if known.host is None else resolve(found.recipe, known.data, known.model, known.host)
    tokens = round(resolved.epochs * known.data.tokens)
    return {
        "object": "fine_tuning.estimate",
        "model": asked.named.name,
        "method": asked.wanted.kind,
        "hyperparameters": found.hyperparameters,
        "guessed": known.guessed,
        "epochs": resolved.epochs,
        "steps": max(1, round(tokens / resolved.tokens_per_step)),
        "tokens_per_epoch": known.data.tokens,
        "trained_tokens": tokens,
        "longest_row_tokens": known.data.longest_row,
        "training_rows": known.data.rows,
        "validation_rows": known.data.validation_rows,
        "task": known.data.task,
        "objective": resolved.objective.name,
        "technique": resolved.technique.model_dump(mode="json"),
        "price": {"amount": cost_of(context, asked.named.base, tokens), "currency": context.settings.currency},
        "plan": None if plan is None else _plan_json(plan),
        "values": _values(resolved.to_json()),
        "data": {param: report.to_json() for param, report in found.reports.items()},
        "rows": rows,
        "warnings": [*warnings, *told],
    }


def _counted(context: Context, found: Examined, rows: list[dict[str, Any]] | None) -> tuple[Known, list[str]]:
    """Tokens as the model's tokenizer counts them, where that is done soon enough; ``rows`` gets the first rows."""
    ends = time.monotonic() + EXACT_SECONDS

    def watch(_event: Event) -> None:
        if time.monotonic() > ends:
            raise _TooLongError

    def audit() -> Mapping[str, Any]:
        show = 0 if rows is None else _PREVIEW_ROWS
        result = stages.audit(dump_recipe(found.recipe), watch, show=show, runs_folder=context.settings.runs_folder)
        if result.error is not None:
            raise result.error
        if rows is not None:
            rows[:] = [_row_json(row) for row in result.audit["shown"]]
        return result.facts

    with COUNTING.take(EXACT_SECONDS) as came:
        if not came:
            return found.known, ["the service counts tokens for others at this moment: they are guessed from letters"]
        try:
            known = known_facts(found.recipe, context.settings.runs_folder, audit)
            if rows == [] and not known.guessed:
                # They were counted before; how rows are cut is not remembered.
                audit()
            return known, []
        except _TooLongError:
            return found.known, ["counting tokens takes too long here: they are guessed from letters"]


def _row_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as tokens; of its place the line alone, since files lie where nobody needs to know."""
    line = str(row["place"]).rpartition(":")[2]
    pieces = [{"text": piece["text"], "trained": piece["trained"]} for piece in row["pieces"]]
    return {"line": int(line) if line.isdigit() else None, "avoided": row["avoided"], "tokens": pieces}


def _plan(context: Context, base: str, found: Examined, known: Known, *, exact: bool) -> tuple[Plan | None, list[str]]:
    """Memory and time on this machine, if jobs are trained here and it was ever measured."""
    if context.settings.shares_runs:
        return None, ["jobs train on other machines: their memory and time are not known here"]
    if known.host is None:
        return None, ["this machine was not measured yet: asking with `exact`, or a first job, measures it"]
    place = calibration.apply(this_machine(known.host), calibration.read_calibration())
    try:
        resolved = resolve(found.recipe, known.data, known.model, known.host)
        shape, _ = model_of(offered(context)[base])
        trained = _trained(question_of(shape, known.config, resolved, known.data), exact=exact)
        change = change_of(found.recipe, resolved, Facts(known.data, known.model, known.host))
        # As the run itself will choose what the recipe leaves open.
        resolved = choosing(found.recipe, change, shape, known.data, place, counted=trained)(()) or resolved
        plan = make_plan(shape, resolved, known.data, place, counted=trained, estimated_tokens=known.guessed)
    except TunesmithError as error:
        return None, error.lines()
    return plan, list(plan.notes)


def _trained(question: Question | None, *, exact: bool) -> Counted | None:
    """What a technique without a formula trains: remembered, or counted where that is asked for and soon enough."""
    if question is None:
        return None
    technique = question.technique
    known = remembered(question)
    if known is not None or not exact:
        return known or Counted(technique, None, "asking with `exact` counts it")
    ends = time.monotonic() + EXACT_SECONDS

    def watch() -> None:
        if time.monotonic() > ends:
            raise _TooLongError

    with COUNTING.take(EXACT_SECONDS) as came:
        if not came:
            return Counted(technique, None, "the service counts for others at this moment")
        try:
            return counted(question, lambda asked: stages.count(asked, lambda _event: None, on_poll=watch))
        except _TooLongError:
            return Counted(technique, None, "counting it takes too long here")


def _plan_json(plan: Plan) -> dict[str, Any]:
    return {
        "fits": plan.fits,
        "headroom_bytes": plan.headroom,
        "memory": {**plan.memory.parts, "host": plan.memory.host},
        "peak_memory_bytes": plan.memory.peak,
        "parameters": plan.parameters,
        "trained_parameters": plan.memory.trained_parameters,
        "seconds": {
            "training": plan.time.training_seconds,
            "evaluation": plan.time.evaluation_seconds,
            "total": plan.time.total_seconds,
        },
    }


def _values(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Every value with its reason, but for where things lie here."""
    return {key: entry for key, entry in resolved["portable"].items() if key != "model"}
