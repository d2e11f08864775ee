"""Problems with a worked answer that ends in a number."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.errors import DataError
from tunesmith.formats.examples import Example, PromptCompletion, QuestionAnswer
from tunesmith.formats.inspect import Inspection
from tunesmith.tasks.answers import answer_form, longest
from tunesmith.tasks.types import PreparedTask, Question, question_task

_MARKED = "Solve the problem. Work step by step, and end with a line that has #### and the final number."
_BARE = "Solve the problem. Answer with the steps, if any, and end with the final number."


def prepare(inspection: Inspection, sample: Sequence[Example]) -> PreparedTask:  # noqa: ARG001  (one form for all)
    """The task for problems; the instruction names ``####`` where the answers end in it."""
    answers = [_parts(example)[1][0] for example in sample]
    system = _MARKED if answer_form(answers) == "number" else _BARE

    def ask(example: Example) -> Question:
        problem, accepted = _parts(example)
        return Question(system, problem, accepted[0], accepted)

    return question_task(
        "math",
        ask,
        metrics=("final_number",),
        longest_answer=longest(answers),
        wording={"system": system},
        description="Math: worked answers, right where the final number is.",
    )


def _parts(example: Example) -> tuple[str, tuple[str, ...]]:
    """The problem and its accepted answers."""
    if isinstance(example, PromptCompletion):
        problem = example.prompt if example.system is None else f"{example.system}\n\n{example.prompt}"
        return problem, (example.completion,)
    assert isinstance(example, QuestionAnswer)
    if not example.answers:
        raise DataError(
            "a problem has no answer",
            code="data.no_answer",
            value=example.question[:80],
            hint="remove such rows, or set task=qa, which may answer that the text does not say it",
        )
    problem = example.question if example.context is None else f"{example.context}\n\n{example.question}"
    return problem, example.answers
