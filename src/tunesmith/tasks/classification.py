"""One label for a text. The answer is the label exactly as the data has it.

The instruction with the labels is the system message, the same in every row, so that rows share the longest prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tunesmith.formats.examples import Example, LabelledText
from tunesmith.formats.inspect import Inspection
from tunesmith.tasks.answers import longest
from tunesmith.tasks.types import PreparedTask, Question, question_task

# A longer list would fill the context of a small model and tell it little.
MOST_LISTED_LABELS = 400


def prepare(inspection: Inspection, sample: Sequence[Example]) -> PreparedTask:
    """The task for labelled texts; the label set is that of the whole data set, not of the sample."""
    found = set(inspection.label_counts) | {example.label for example in sample if isinstance(example, LabelledText)}
    labels = ordered(found)
    listed = len(labels) <= MOST_LISTED_LABELS
    system = _instruction(labels) if listed else "Classify the text. Answer with its label and nothing else."

    def ask(example: Example) -> Question:
        assert isinstance(example, LabelledText)
        return Question(system, example.text, example.label, example.label)

    told = (
        "the prompt lists them"
        if listed
        else f"the prompt does not list them, since they are more than {MOST_LISTED_LABELS}"
    )
    return question_task(
        "classification",
        ask,
        metrics=("accuracy", "macro_f1"),
        longest_answer=longest(labels),
        wording={"system": system},
        description=f"Classification into {len(labels)} labels; {told}.",
        labels=labels,
    )


def ordered(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels in a fixed order: by value where all are whole numbers, else by text."""
    names = sorted(labels)
    if all(name.removeprefix("-").isdecimal() for name in names):
        names.sort(key=int)
    return tuple(names)


def _instruction(labels: Sequence[str]) -> str:
    return "\n".join(["Classify the text. Answer with exactly one of these labels and nothing else:", *labels])
