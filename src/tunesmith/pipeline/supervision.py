"""What an objective means for the stages around training: how its rows become tokens, and how systems are measured.

One row of the table for each objective.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from tunesmith.data.label_rows import source_text, tokenize_labelled, tokenize_seq2seq
from tunesmith.data.labelled import make_reader
from tunesmith.data.pairs import tokenize_pairs
from tunesmith.data.store import TokenStore
from tunesmith.data.tokenize import tokenize_examples, tokenize_whole
from tunesmith.evaluation.heads import head_ruler
from tunesmith.evaluation.held_out import LabelLosses, Layout
from tunesmith.evaluation.preference import preference_ruler
from tunesmith.evaluation.questions import Asked, HeldOut, ask_encoder, ask_head, ask_plainly
from tunesmith.evaluation.seq2seq import seq2seq_ruler
from tunesmith.evaluation.systems import OnProgress, Ruler, ShouldStop, causal_ruler
from tunesmith.formats.examples import EntityText, Example, LabelledText, Message, QuestionAnswer
from tunesmith.objectives.label_loss import head_losses, next_token_losses, written_token_losses
from tunesmith.objectives.question_answering import answer_losses
from tunesmith.recipe.resolved import Resolved
from tunesmith.tasks import EvaluationRow, PreparedTask

if TYPE_CHECKING:
    from tunesmith.pipeline.prepare import Prepared

Tokenize = Callable[..., TokenStore]


class MakeRuler(Protocol):
    """Makes the ruler of a run."""

    def __call__(
        self, prepared: Prepared, resolved: Resolved, layout: Layout, on_progress: OnProgress, should_stop: ShouldStop
    ) -> Ruler:
        """The arguments of :func:`make_ruler`."""


@dataclass(frozen=True)
class Supervision:
    """One objective outside of the loop.

    ``tokenize`` has the arguments of :func:`tunesmith.data.tokenize.tokenize_examples`; where ``labelled``, also those
    of :func:`tunesmith.data.label_rows.tokenize_labelled`. ``ask`` puts held-out questions to the model that is
    measured, ``shown`` makes the question that a report shows.
    """

    tokenize: Tokenize
    ruler: MakeRuler
    labelled: bool = False
    ask: Callable[[HeldOut, Any], Asked] = ask_plainly
    shown: Callable[[PreparedTask, Example], EvaluationRow | None] = lambda task, example: task.evaluation(example)


def make_ruler(
    prepared: Prepared, resolved: Resolved, layout: Layout, *, on_progress: OnProgress, should_stop: ShouldStop
) -> Ruler:
    """How the systems of a run are measured."""
    return SUPERVISION[resolved.objective.name].ruler(prepared, resolved, layout, on_progress, should_stop)


def _causal(
    prepared: Prepared, resolved: Resolved, layout: Layout, on_progress: OnProgress, should_stop: ShouldStop
) -> Ruler:
    return causal_ruler(
        prepared.tokenizer,
        layout,
        next_token_losses,
        max_new_tokens=resolved.max_new_tokens,
        stop_token_ids=prepared.stop_token_ids,
        on_progress=on_progress,
        should_stop=should_stop,
    )


def _head(label_losses: LabelLosses, *, a_row_counts_once: bool) -> MakeRuler:
    def make(
        prepared: Prepared, resolved: Resolved, layout: Layout, on_progress: OnProgress, should_stop: ShouldStop
    ) -> Ruler:
        reader = make_reader(
            resolved.objective.name, prepared.task.labels, prepared.tokenizer, prepared.model_facts.kind
        )
        return head_ruler(
            reader,
            layout,
            label_losses,
            a_row_counts_once=a_row_counts_once,
            on_progress=on_progress,
            should_stop=should_stop,
        )

    return make


def _seq2seq(
    prepared: Prepared, resolved: Resolved, layout: Layout, on_progress: OnProgress, should_stop: ShouldStop
) -> Ruler:
    return seq2seq_ruler(
        prepared.tokenizer,
        layout,
        written_token_losses,
        max_new_tokens=resolved.max_new_tokens,
        on_progress=on_progress,
        should_stop=should_stop,
    )


def _preference(
    prepared: Prepared,  # noqa: ARG001 - one form for all
    resolved: Resolved,  # noqa: ARG001
    layout: Layout,
    on_progress: OnProgress,
    should_stop: ShouldStop,
) -> Ruler:
    return preference_ruler(layout, next_token_losses, on_progress=on_progress, should_stop=should_stop)


def _as_read(task: PreparedTask, example: Example) -> EvaluationRow | None:
    """The question as a head reads it: the text, without the instruction that models which write are given."""
    row = task.evaluation(example)
    if row is None:
        return None
    if isinstance(example, QuestionAnswer):
        text = f"{example.question}\n\n{example.context}"
    else:
        assert isinstance(example, LabelledText | EntityText)
        text = example.text
    asked = replace(row, messages=(Message("text", text),))
    if not isinstance(example, EntityText):
        return asked
    # A head says where an entity stands, so that of two with the same words each must be found.
    spans = tuple(
        {"text": text[span.start : span.end], "label": span.label, "start": span.start, "end": span.end}
        for span in example.spans
    )
    return replace(asked, reference=spans, shown_reference=json.dumps(spans, ensure_ascii=False))


def _as_source(task: PreparedTask, example: Example) -> EvaluationRow | None:
    """The question as the one text that an encoder reads."""
    row = task.evaluation(example)
    return None if row is None else replace(row, messages=(Message("text", source_text(row.messages)),))


_CLASSES = _head(head_losses, a_row_counts_once=False)
_ANSWERS = _head(answer_losses, a_row_counts_once=True)

SUPERVISION: Mapping[str, Supervision] = {
    "sft": Supervision(tokenize_examples, _causal),
    "text": Supervision(tokenize_whole, _causal),
    "dpo": Supervision(tokenize_pairs, _preference),
    "orpo": Supervision(tokenize_pairs, _preference),
    "kto": Supervision(tokenize_pairs, _preference),
    "sequence_classification": Supervision(tokenize_labelled, _CLASSES, True, ask_head, _as_read),
    "token_classification": Supervision(tokenize_labelled, _CLASSES, True, ask_head, _as_read),
    "question_answering": Supervision(tokenize_labelled, _ANSWERS, True, ask_head, _as_read),
    "seq2seq": Supervision(tokenize_seq2seq, _seq2seq, False, ask_encoder, _as_source),
}
