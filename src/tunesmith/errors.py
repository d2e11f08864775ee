"""Every error that Tunesmith raises on purpose, in one tree.

    TunesmithError
    ├── UsageError          a command or call that makes no sense             exit 2
    ├── RecipeError         a recipe that cannot be read or is refused        exit 10
    ├── DataError           files or rows that cannot be used                 exit 11
    ├── SupervisionError    rows whose training signal is wrong               exit 12
    ├── ModelError          a model that is missing or unsuitable             exit 13
    ├── OutputError         a folder that cannot be written, a full disk      exit 14
    ├── RunError            a run that is missing, taken, or owned            exit 15
    ├── CheckpointError     a checkpoint that is broken or missing            exit 16
    ├── NetworkError        something outside did not answer (retryable)      exit 17
    ├── TrainingError       a loss or gradient that is not finite             exit 18
    ├── ResourceError       not enough memory (retryable elsewhere)           exit 19
    ├── WorkerError         the worker process died without an error          exit 20
    └── Stopped             the user stopped the run; it can be resumed       exit 130

An error carries problems, each with code, place, value and remedy. Work that can find several problems collects
them and raises once. Errors cross the process border as JSON (:meth:`TunesmithError.to_json`), so the command line
shows a worker's error exactly as the worker raised it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: a stable code, where it is, what was found, and what to do about it."""

    code: str
    message: str
    place: str | None = None
    value: str | None = None
    hint: str | None = None

    def lines(self) -> list[str]:
        """The problem as plain lines for a terminal or a log."""
        head = f"{self.place}: {self.message}" if self.place else self.message
        if self.value is not None:
            head = f"{head}: {self.value}"
        return [head] if self.hint is None else [head, f"  hint: {self.hint}"]


class TunesmithError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: What went wrong, in one sentence without a full stop.
        code: A stable identifier such as ``recipe.unknown_key``; scripts may rely on it.
        place: Where it is: a file with line, a recipe key, a folder.
        value: What was found there.
        hint: What the user can do about it.
        problems: Several problems at once; then ``message`` is their headline.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    default_code: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        place: str | None = None,
        value: object = None,
        hint: str | None = None,
        problems: Sequence[Problem] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or (problems[0].code if problems else self.default_code)
        self.place = place
        self.value = None if value is None else str(value)
        self.hint = hint
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[Any, ...]:
        return (from_json, (self.to_json(),))

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The error as plain lines: the headline, each problem, the hint."""
        lines = Problem(self.code, self.message, self.place, self.value, self.hint).lines()
        for problem in self.problems:
            lines.extend("  " + line for line in problem.lines())
        return lines

    def to_json(self) -> dict[str, Any]:
        """The error as plain data; :func:`from_json` turns it back."""
        return {
            "class": type(self).__name__,
            "code": self.code,
            "message": self.message,
            "place": self.place,
            "value": self.value,
            "hint": self.hint,
            "problems": [asdict(problem) for problem in self.problems],
        }


class UsageError(TunesmithError, ValueError):
    """A command or call that makes no sense."""

    exit_code = 2
    default_code = "usage"


class RecipeError(TunesmithError, ValueError):
    """A recipe that cannot be read, has unknown keys, or asks for what cannot work."""

    exit_code = 10
    default_code = "recipe"


class DataError(TunesmithError, ValueError):
    """Training files or rows that cannot be used."""

    exit_code = 11
    default_code = "data"


class SupervisionError(TunesmithError, ValueError):
    """Rows whose training signal would be wrong: nothing trained, wrong template, lost to truncation."""

    exit_code = 12
    default_code = "supervision"


class ModelError(TunesmithError, ValueError):
    """A model that is missing, broken, or unsuitable for the task."""

    exit_code = 13
    default_code = "model"


class OutputError(TunesmithError, OSError):
    """An output folder that cannot be written, or a full disk."""

    exit_code = 14
    default_code = "output"


class RunError(TunesmithError, RuntimeError):
    """A run that does not exist, exists already, or belongs to another worker."""

    exit_code = 15
    default_code = "run"


class CheckpointError(TunesmithError, RuntimeError):
    """A checkpoint that is missing, incomplete, or does not match its manifest."""

    exit_code = 16
    default_code = "checkpoint"


class NetworkError(TunesmithError, OSError):
    """Something outside this machine did not answer."""

    exit_code = 17
    retryable = True
    default_code = "network"


class TrainingError(TunesmithError, ArithmeticError):
    """Training cannot go on: the loss or the gradient norm is not finite."""

    exit_code = 18
    default_code = "training"


class ResourceError(TunesmithError, MemoryError):
    """The machine has not enough memory for what was asked."""

    exit_code = 19
    retryable = True
    default_code = "resource"


class WorkerError(TunesmithError, RuntimeError):
    """The worker process ended without saying why."""

    exit_code = 20
    retryable = True
    default_code = "worker"


class Stopped(TunesmithError):
    """The user asked the run to stop; a checkpoint was saved and the run can be resumed."""

    exit_code = 130
    default_code = "stopped"


CLASSES: tuple[type[TunesmithError], ...] = (
    UsageError,
    RecipeError,
    DataError,
    SupervisionError,
    ModelError,
    OutputError,
    RunError,
    CheckpointError,
    NetworkError,
    TrainingError,
    ResourceError,
    WorkerError,
    Stopped,
)


def missing_extra(message: str, extra: str | None, *, place: str | None = None, value: str | None = None) -> UsageError:
    """What is told where a library is wanted that only an extra of Tunesmith's installs.

    Args:
        message: What wants it.
        extra: Its name; None where the library belongs to none of ours.
        place: The recipe key or option that wants it.
        value: The library.
    """
    hint = f"pip install 'tunesmith[{extra}]'" if extra else None
    return UsageError(message, code="usage.missing_extra", place=place, value=value, hint=hint)


def from_json(data: dict[str, Any]) -> TunesmithError:
    """Rebuild an error from :meth:`TunesmithError.to_json`; an unknown class becomes a plain TunesmithError."""
    by_name = {cls.__name__: cls for cls in CLASSES}
    cls = by_name.get(str(data.get("class")), TunesmithError)
    return cls(
        str(data.get("message", "unknown error")),
        code=data.get("code"),
        place=data.get("place"),
        value=data.get("value"),
        hint=data.get("hint"),
        problems=[Problem(**problem) for problem in data.get("problems", [])],
    )
