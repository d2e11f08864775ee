"""What is wrong with a training file, row by row, before a job is made of it.

Rows are read by :mod:`tunesmith.formats`; here are the rules that OpenAI's fine-tuning has beyond it, by the codes that
its own checks use. Memory does not grow with the file but for one short hash a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunesmith.errors import DataError, Problem
from tunesmith.formats.inspect import Inspection, inspect_source
from tunesmith.formats.rows import BadRow
from tunesmith.service.errors import ApiError

Method = Literal["supervised", "dpo", "any"]
LEAST_EXAMPLES = 10
_PREFERENCES = ("preference", "rated")
_MOST_TOLD = 20
_NO_PREFERENCES = (
    "the rows are no preferences; with the method dpo each has `input`, `preferred_output` and `non_preferred_output`, "
    "or `prompt`, `chosen` and `rejected`"
)


@dataclass(frozen=True)
class TrainingProblem:
    """One thing that is wrong: a code, words, the line (from 1) where it is one row's, and how many rows have it."""

    code: str
    message: str
    line: int | None = None
    rows: int | None = None

    def words(self) -> str:
        """The problem as one line."""
        place = "" if self.line is None else f"line {self.line}: "
        return f"{place}{self.message} ({self.code})"


@dataclass(frozen=True)
class TrainingReport:
    """What a training file was found to be.

    Attributes:
        problems: What must be mended; of each kind of bad row the first five.
        inspection: What one pass over the rows found; None where they could not be read at all.
    """

    problems: tuple[TrainingProblem, ...]
    inspection: Inspection | None

    @property
    def examples(self) -> int:
        """Rows that can be trained on."""
        return 0 if self.inspection is None else self.inspection.good_rows

    @property
    def warnings(self) -> tuple[str, ...]:
        """What should be known, and hinders nothing."""
        if self.inspection is None:
            return ()
        copies = self.inspection.duplicates
        told = (f"{copies} examples are equal to earlier ones",) if copies else ()
        return (*self.inspection.warnings, *told)

    def require_usable(self, param: str, *, code: str = "invalid_training_file") -> None:
        """Refuse a file with problems.

        Args:
            param: The parameter that named it, such as ``training_file``.
            code: The error's code, but for a file that is too short, which has one of its own.

        Raises:
            ApiError: 400, with all that is known.
        """
        if not self.problems:
            return
        first = self.problems[0]
        code = first.code if first.code == "invalid_n_examples" else code
        told = [problem.words() for problem in self.problems[:_MOST_TOLD]]
        if len(self.problems) > _MOST_TOLD:
            told.append(f"and {len(self.problems) - _MOST_TOLD} more")
        raise ApiError(
            400, f"The {param.replace('_', ' ')} cannot be used:\n" + "\n".join(told), code=code, param=param
        )

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        found = self.inspection
        return {
            "usable": not self.problems,
            "shape": None if found is None else found.shape,
            "task": None if found is None else found.task,
            "columns": {} if found is None else dict(found.columns),
            "unused_columns": [] if found is None else list(found.unused_columns),
            "rows": 0 if found is None else found.rows,
            "examples": self.examples,
            "duplicates": 0 if found is None else found.duplicates,
            "labels": {} if found is None else found.label_counts,
            "problems": [
                {"code": one.code, "message": one.message, "line": one.line, "rows": one.rows} for one in self.problems
            ],
            "warnings": list(self.warnings),
        }


def check_training_file(
    path: Path,
    method: Method,
    *,
    least_examples: int = LEAST_EXAMPLES,
    columns: Mapping[str, str] | None = None,
    shape: str | None = None,
) -> TrainingReport:
    """Read a training file once and say all that is wrong with it.

    Args:
        path: The file; its ending may say what kind of file it is, else its content does.
        method: ``dpo`` needs preference pairs; ``supervised`` takes every other shape; ``any`` takes all of them.
        least_examples: How many there must be; 1 for a validation file.
        columns: A map from our field names to columns, where the asker gave one.
        shape: The shape, where the asker gave one.
    """
    wanted = shape or ("preference" if method == "dpo" else None)
    try:
        found = inspect_source(path, columns=columns, shape=wanted)
    except DataError as error:
        if method == "dpo" and columns is None and error.code == "data.missing_columns":
            return TrainingReport((TrainingProblem("wrong_method", _NO_PREFERENCES),), None)
        return TrainingReport(problems_of(error, path), None)
    problems = [*_method_problems(found, method), *_row_problems(found)]
    if not found.bad_rows.count and found.good_rows < least_examples:
        message = f"The file has {found.good_rows} example(s), but must have at least {least_examples} examples"
        problems.append(TrainingProblem("invalid_n_examples", message))
    return TrainingReport(tuple(problems), found)


def _method_problems(found: Inspection, method: Method) -> list[TrainingProblem]:
    if method != "supervised" or found.shape not in _PREFERENCES:
        return []
    message = "the rows are preferences; train them with the method dpo, or give conversations under `messages`"
    return [TrainingProblem("wrong_method", message)]


def _row_problems(found: Inspection) -> list[TrainingProblem]:
    return [
        _row_problem(row, kind.count if at == 0 else None)
        for kind in found.bad_rows.kinds.values()
        for at, row in enumerate(kind.first)
    ]


def _row_problem(row: BadRow, rows: int | None) -> TrainingProblem:
    return TrainingProblem(row.kind, row.message, row.place.line, rows)


def problems_of(error: DataError, path: Path) -> tuple[TrainingProblem, ...]:
    """The problems of a file that cannot be used as a whole; where it lies is nobody's business."""
    if error.problems:
        return tuple(_of_problem(problem) for problem in error.problems)
    own = Problem(error.code, error.message, None, error.value, error.hint)
    return (_of_problem(own, said=str(path)),)


def _of_problem(problem: Problem, said: str | None = None) -> TrainingProblem:
    value = None if problem.value is None or (said is not None and said in problem.value) else problem.value
    message = ": ".join(part for part in (problem.message, value) if part)
    if problem.hint and (said is None or said not in problem.hint):
        message += f"; {problem.hint}"
    _, _, line = (problem.place or "").rpartition(":")
    return TrainingProblem(problem.code.removeprefix("data."), message, int(line) if line.isdigit() else None)
