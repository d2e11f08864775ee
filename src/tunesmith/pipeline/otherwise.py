"""Ask a system the held-out questions otherwise, all ways of asking in one batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tunesmith.data.types import TokenRow
from tunesmith.errors import DataError, UsageError
from tunesmith.evaluation.metrics.table import METRICS
from tunesmith.evaluation.otherwise import asked_otherwise, worst_name
from tunesmith.evaluation.perturb import PERTURBATIONS
from tunesmith.evaluation.questions import Asked, HeldOut
from tunesmith.evaluation.systems import Measured
from tunesmith.formats.examples import Example
from tunesmith.pipeline.measure import Bench
from tunesmith.pipeline.prepare import reader_of
from tunesmith.pipeline.supervision import SUPERVISION
from tunesmith.tasks import EvaluationRow


def require_other_ways(bench: Bench) -> None:
    """Refuse data whose questions cannot be asked otherwise.

    Raises:
        UsageError: ``usage.robustness``.
    """
    metrics, examples = bench.resolved.metrics, bench.held_out.examples
    can_be_asked = any(asked_otherwise(example, "lower_case", 0) is not None for example in examples)
    if not metrics or worst_name(metrics[0]) not in METRICS or not can_be_asked:
        raise UsageError(
            "rows of this task are not asked otherwise: their answers depend on the very words, or are not marked one "
            "by one",
            code="usage.robustness",
            place=bench.resolved.task,
            hint="leave --robustness out",
        )


def with_other_ways(bench: Bench, model: Any, measured: Measured) -> Measured:
    """A system's measurement with its answers to all questions in all other ways of asking.

    Raises:
        DataError: A question asked otherwise does not fit into what the model reads.
        Stopped: The user asked to stop.
    """
    held_out, seed = bench.held_out, bench.resolved.seed
    shown = SUPERVISION[bench.resolved.objective.name].shown
    places: dict[tuple[str, int], int] = {}
    questions: list[EvaluationRow] = []
    examples: list[Example] = []
    for kind in PERTURBATIONS:
        for at, (example, question) in enumerate(zip(held_out.examples, held_out.questions, strict=True)):
            changed = asked_otherwise(example, kind, seed)
            asked = None if changed is None else shown(bench.prepared.task, changed)
            if changed is not None and asked is not None and asked.messages != question.messages:
                places[kind, at] = len(questions)
                questions.append(asked)
                examples.append(changed)
    numbered = tuple(str(number) for number in range(len(questions)))
    asked_anew = _asked(bench, HeldOut((), numbered, tuple(questions), tuple(examples)))
    found = bench.ruler.answers(
        model.eval(),
        asked_anew,
        lambda done: bench.ruler.on_progress(done, len(questions)),
        bench.ruler.should_stop,
    )
    otherwise: dict[str, tuple[str | None, ...]] = {
        kind: tuple(
            found.texts[places[kind, at]] if (kind, at) in places else None for at in range(len(held_out.questions))
        )
        for kind in PERTURBATIONS
    }
    return replace(
        measured,
        otherwise=otherwise,
        tokens_read=measured.tokens_read + asked_anew.tokens,
        tokens_written=measured.tokens_written + found.tokens,
    )


def _asked(bench: Bench, held_out: HeldOut) -> Asked:
    """The questions in the form that the objective's models take."""
    reader = reader_of(bench.prepared, bench.resolved.objective)
    if reader is None:
        return SUPERVISION[bench.resolved.objective.name].ask(held_out, bench.prepared.tokenizer)
    encoded = [reader.encode(example) for example in held_out.examples]
    rows = [
        TokenRow(row.token_ids_T, row.marked_T, place, row.label_ids_T)
        for place, row in zip(held_out.places, encoded, strict=True)
    ]
    longest, limit = max((len(row.token_ids_T) for row in rows), default=0), bench.prepared.model_facts.context_length
    if limit is not None and longest > limit:
        raise DataError(
            "a question asked otherwise is longer than what the model reads",
            code="robustness.too_long",
            value=f"{longest} tokens, limit {limit}",
            hint="measure on shorter rows",
        )
    return Asked([], (), rows, held_out.examples)
