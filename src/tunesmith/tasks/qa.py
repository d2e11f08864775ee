"""Questions with or without a context; the first accepted answer is learned, all of them count at evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunesmith.formats.examples import Example, QuestionAnswer
from tunesmith.formats.inspect import Inspection
from tunesmith.tasks.answers import METRICS_OF_FORM, WORDS_OF_FORM, Form, answer_form, longest
from tunesmith.tasks.types import PreparedTask, Question, question_task

# What is answered where the text does not say it.
UNANSWERABLE = "unanswerable"

# The form of the answers is told to the model, so that the untuned one is not beaten by a format it never heard of.
_ENDINGS: Mapping[Form, str] = {
    "json": " Answer only with a JSON object.",
    "number": " Work step by step, and end with a line that has #### and the final number.",
    "short": " Answer in as few words as possible.",
    "long": "",
}


def prepare(inspection: Inspection, sample: Sequence[Example]) -> PreparedTask:  # noqa: ARG001  (one form for all)
    """The task for questions, with metrics and instruction by the form of the sampled answers."""
    questions = [example for example in sample if isinstance(example, QuestionAnswer)]
    learned = [question.answers[0] for question in questions if question.answers]
    form = answer_form(learned)
    some_are_unanswerable = len(learned) < len(questions)
    ending = _ENDINGS[form] + (
        f" If the text does not say it, answer: {UNANSWERABLE}." if some_are_unanswerable else ""
    )

    def ask(example: Example) -> Question:
        assert isinstance(example, QuestionAnswer)
        # An empty answer is SQuAD's own way to say that there is none.
        accepted = example.answers or (UNANSWERABLE, "")
        if example.context is None:
            return Question(f"Answer the question.{ending}", example.question, accepted[0], accepted)
        system = f"Answer the question from the text.{ending}"
        return Question(system, f"Text:\n{example.context}\n\nQuestion: {example.question}", accepted[0], accepted)

    with_context = sum(question.context is not None for question in questions)
    context = "with" if with_context else "without"
    return question_task(
        "qa",
        ask,
        metrics=METRICS_OF_FORM[form],
        longest_answer=longest([*learned, UNANSWERABLE] if some_are_unanswerable else learned),
        wording={"ending": ending},
        description=f"Questions {context} a text to answer from; {WORDS_OF_FORM[form]}"
        + ("; some have no answer." if some_are_unanswerable else "."),
        labels=(UNANSWERABLE,) if some_are_unanswerable else (),
    )
