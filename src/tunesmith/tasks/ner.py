"""Named entities of a text, answered as a JSON list of ``{"text", "label"}`` in order of appearance."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tunesmith.formats.examples import EntityText, Example
from tunesmith.formats.inspect import Inspection
from tunesmith.tasks.answers import longest
from tunesmith.tasks.classification import MOST_LISTED_LABELS, ordered
from tunesmith.tasks.types import PreparedTask, Question, question_task


def prepare(inspection: Inspection, sample: Sequence[Example]) -> PreparedTask:
    """The task for texts with entities; the labels are those of the whole data set."""
    found = set(inspection.label_counts)
    found |= {span.label for example in sample if isinstance(example, EntityText) for span in example.spans}
    labels = ordered(found)
    system = (
        'Find the named entities in the text. Answer only with a JSON list of objects with "text" and "label", '
        "in order of appearance, and with [] where there are none."
    )
    listed = 0 < len(labels) <= MOST_LISTED_LABELS
    if listed:
        system += f" Labels: {', '.join(labels)}."

    def ask(example: Example) -> Question:
        assert isinstance(example, EntityText)
        spans = tuple({"text": example.text[span.start : span.end], "label": span.label} for span in example.spans)
        return Question(system, example.text, json.dumps(spans, ensure_ascii=False), spans)

    return question_task(
        "ner",
        ask,
        metrics=("entity_f1", "entity_precision", "entity_recall"),
        longest_answer=longest([ask(example).answer for example in sample]),
        wording={"system": system},
        description=(
            f"Named entities with {len(labels)} labels, answered as JSON; "
            f"the prompt {'lists' if listed else 'does not list'} the labels."
        ),
        labels=labels,
    )
