"""Multiple-choice questions of a file: TruthfulQA's two lists of answers, or a question with choices and its answer.

| columns | scored as |
|---|---|
| question, mc1_targets, mc2_targets | MC1 and MC2 (either may be missing) |
| question, choices, answer | accuracy, also with likelihoods divided by the length of the choices |

Targets are ``{"choices": [...], "labels": [1, 0, ...]}`` or ``{"an answer": 1, "another": 0}``, choices a list of
texts or ``{"text": [...], "label": ["A", ...]}``, the answer a number from 0, a label, a letter or the text itself.
In a CSV file lists and objects are JSON. Nothing of a file is ever evaluated.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from tunesmith.errors import DataError, Problem
from tunesmith.formats.examples import Place
from tunesmith.formats.kinds import detect_file, empty_error, read_rows
from tunesmith.formats.rows import BadRow, RowProblem, clip

TargetName = Literal["mc1", "mc2", "choice"]

MOST_PROBLEMS = 10
_ANSWER_COLUMNS = ("answer", "answerKey", "label")


@dataclass(frozen=True)
class Choices:
    """Answers to choose from, and which of them are true."""

    texts: tuple[str, ...]
    true: tuple[bool, ...]


@dataclass(frozen=True)
class ChoiceQuestion:
    """One question with the answers of each way of scoring it."""

    place: str
    question: str
    targets: Mapping[TargetName, Choices]


@dataclass(frozen=True)
class ChoiceFile:
    """The questions of a file, all scored alike, with the file's name and hash."""

    name: str
    sha256: str
    questions: tuple[ChoiceQuestion, ...]

    @property
    def targets(self) -> tuple[TargetName, ...]:
        """The ways in which every question is scored."""
        return tuple(self.questions[0].targets)


def read_choices(path: str | Path) -> ChoiceFile:
    """Read a JSON, JSONL, CSV or Parquet file of multiple-choice questions whole.

    Raises:
        DataError: ``choices.invalid`` with every row that cannot be used, ``choices.mixed`` where rows differ in how
            they are scored, and the errors of :func:`tunesmith.formats.kinds.detect_file`.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(
            "no such file",
            code="data.missing",
            place=str(path),
            hint="multiple choice takes a JSON, JSONL, CSV or Parquet file",
        )
    questions: list[ChoiceQuestion] = []
    problems: list[Problem] = []
    for row in read_rows(detect_file(path)):
        if isinstance(row, BadRow):
            problems.append(Problem("choices.invalid", row.message, str(row.place)))
            continue
        try:
            questions.append(_question(row.place, row.fields))
        except RowProblem as problem:
            problems.append(Problem("choices.invalid", problem.message, str(row.place)))
    if problems:
        shown = problems[:MOST_PROBLEMS]
        raise DataError(
            f"{len(problems)} row{'s'[: len(problems) > 1]} cannot be used as multiple-choice questions",
            code="choices.invalid",
            hint="a row has question, mc1_targets and mc2_targets; or question, choices and answer",
            problems=shown,
        )
    if not questions:
        raise empty_error(str(path))
    _require_alike(questions)
    return ChoiceFile(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), tuple(questions))


def _require_alike(questions: Sequence[ChoiceQuestion]) -> None:
    first = questions[0]
    for question in questions:
        if tuple(question.targets) != tuple(first.targets):
            raise DataError(
                "all questions of a file must be scored alike",
                code="choices.mixed",
                place=question.place,
                value=f"{', '.join(question.targets)} here, {', '.join(first.targets)} in {first.place}",
                hint="put them into files of their own",
            )


def _question(place: Place, fields: Mapping[str, Any]) -> ChoiceQuestion:
    question = fields.get("question")
    if not isinstance(question, str) or not question.strip():
        raise RowProblem("no_question", "there is no question")
    targets: dict[TargetName, Choices] = {}
    if fields.get("mc1_targets") is not None:
        targets["mc1"] = _marked("mc1_targets", fields["mc1_targets"])
        if sum(targets["mc1"].true) != 1:
            raise RowProblem("targets", "mc1_targets needs exactly one true answer")
    if fields.get("mc2_targets") is not None:
        targets["mc2"] = _marked("mc2_targets", fields["mc2_targets"])
        if not 0 < sum(targets["mc2"].true) < len(targets["mc2"].true):
            raise RowProblem("targets", "mc2_targets needs true and false answers")
    if not targets:
        targets["choice"] = _answered(fields)
    return ChoiceQuestion(str(place), question, targets)


def _data(name: str, value: Any) -> Any:
    """A cell of a table as the JSON that it holds; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise RowProblem("not_json", f"{name} is neither an object nor JSON: {clip(value)}") from error


def _marked(name: str, value: Any) -> Choices:
    """Answers that are marked true or false, in either of the two forms."""
    value = _data(name, value)
    if not isinstance(value, Mapping) or not value:
        raise RowProblem("targets", f"{name} must be an object: {clip(value)}")
    if set(value) == {"choices", "labels"}:
        texts, labels = value["choices"], value["labels"]
    else:
        texts, labels = list(value), list(value.values())
    if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels):
        raise RowProblem("targets", f"{name} needs a label for each choice")
    if any(label not in (0, 1) for label in labels):
        raise RowProblem("targets", f"labels of {name} are 0 or 1: {clip(labels)}")
    return _choices(name, texts, [bool(label) for label in labels])


def _choices(name: str, texts: Any, true: Sequence[bool]) -> Choices:
    if not isinstance(texts, list) or len(texts) < 2:
        raise RowProblem("choices", f"{name} needs at least two choices")
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise RowProblem("choices", f"choices of {name} must be texts that are not empty")
    return Choices(tuple(texts), tuple(true))


def _answered(fields: Mapping[str, Any]) -> Choices:
    """A list of choices and the one that is right."""
    value = _data("choices", fields.get("choices"))
    labels: Any = None
    if isinstance(value, Mapping):
        labels, value = value.get("label"), value.get("text")
    if not isinstance(value, list):
        raise RowProblem("choices", "there are neither mc1_targets nor mc2_targets nor a list of choices")
    name = next((name for name in _ANSWER_COLUMNS if fields.get(name) is not None), None)
    if name is None:
        raise RowProblem("answer", "there is no answer")
    right = _position(fields[name], value, labels if isinstance(labels, list) else [])
    if right is None:
        raise RowProblem("answer", f"{name} is none of the choices: {clip(fields[name])}")
    return _choices("choices", value, [at == right for at in range(len(value))])


def _position(answer: Any, texts: Sequence[Any], labels: Sequence[Any]) -> int | None:
    """Which choice an answer names: by label, by text, by number from 0, or by letter."""
    if isinstance(answer, bool):
        return None
    if answer in labels:
        return labels.index(answer)
    if answer in texts:
        return texts.index(answer)
    if isinstance(answer, str) and answer.strip().isascii() and answer.strip().isdigit():
        answer = int(answer)
    if isinstance(answer, int):
        return answer if 0 <= answer < len(texts) else None
    letter = answer.strip().upper() if isinstance(answer, str) else ""
    at = string.ascii_uppercase.find(letter) if len(letter) == 1 else -1
    return at if 0 <= at < len(texts) else None
