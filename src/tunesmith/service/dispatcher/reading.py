"""Events of a run as events of a job, in OpenAI's words; nothing is asked of anybody here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tunesmith.runs.events import Event
from tunesmith.service.fine_tuning.telling import Line

# As checkpoints and the result file have them.
METRICS = (
    "step",
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)
_STAGES = {
    "evaluating_base": "Measuring the model before training",
    "evaluating": "Measuring the fine-tuned model",
}


@dataclass
class Progress:
    """What a run has told.

    Attributes:
        seq: The last event that was read.
        lines: What is to be told of it.
        tokens: Tokens of the steps behind ``counted_step``, each step once however often it was done.
        counted_step: The last step that is counted.
        step, total_steps, seconds_left: Where training is.
        epochs: How often rows will have been seen in the end, as it looks now.
        rows_per_step: Rows of a step on average.
        error: The last error of the worker.
    """

    seq: int = 0
    lines: list[Line] = field(default_factory=list)
    tokens: int = 0
    counted_step: int = 0
    step: int = 0
    total_steps: int | None = None
    seconds_left: float | None = None
    epochs: float | None = None
    rows_per_step: float | None = None
    error: Mapping[str, Any] | None = None


def read_progress(events: Iterable[Event], *, after: int, counted_step: int) -> Progress:
    """What is new in a run's events.

    Args:
        events: All events, in order.
        after: The last event that was told before.
        counted_step: The last step whose tokens were counted before.
    """
    found = Progress(seq=after, counted_step=counted_step)
    steps: dict[int, dict[str, Any]] = {}
    for event in events:
        is_new = event.seq > after
        if event.type == "step" and event.step is not None:
            steps[event.step] = metrics_of(event)
            found.step, found.total_steps = event.step, event.data.get("total_steps")
            found.seconds_left = event.data.get("eta_seconds")
            if found.total_steps and event.data.get("epoch"):
                # A budget moves the end while training goes on.
                found.epochs = event.data["epoch"] * found.total_steps / event.step
            if is_new and event.step > found.counted_step:
                found.tokens += int(event.data.get("tokens", 0))
                found.counted_step = event.step
        elif event.type == "artifact" and event.data.get("kind") == "resolved":
            found.epochs, found.rows_per_step = event.data.get("epochs"), event.data.get("rows_per_step")
        elif event.type == "error":
            found.error = event.data
        if is_new:
            found.lines += _told(event, steps)
            found.seq = event.seq
    return found


def metrics_of(event: Event) -> dict[str, Any]:
    """The numbers of a step, those that there are, by OpenAI's names."""
    data = event.data
    found = {
        "step": event.step,
        "train_loss": data.get("loss"),
        "train_mean_token_accuracy": _accuracy(data),
    }
    return {key: value for key, value in found.items() if value is not None}


def validation_of(event: Event) -> dict[str, Any]:
    """The numbers of a validation; it is always over all held-out rows."""
    told = {"loss": event.data.get("loss"), "mean_token_accuracy": _accuracy(event.data)}
    return {f"{of}_{key}": value for key, value in told.items() if value is not None for of in ("valid", "full_valid")}


def _accuracy(data: Mapping[str, Any]) -> Any:
    """Share of the tokens that got the highest score; services that train for others have a longer word for it."""
    return data.get("accuracy", data.get("token_accuracy"))


def steps_of(events: Iterable[Event]) -> dict[int, dict[str, Any]]:
    """The numbers of every step; a step that was done again counts as it was done last."""
    steps: dict[int, dict[str, Any]] = {}
    for event in events:
        if event.step is None:
            continue
        if event.type == "step":
            steps[event.step] = metrics_of(event)
        elif event.type == "evaluation":
            steps.setdefault(event.step, {"step": event.step}).update(validation_of(event))
    return steps


def _told(event: Event, steps: Mapping[int, Mapping[str, Any]]) -> Iterator[Line]:
    source = f"run:{event.seq}"
    if event.type == "status":
        state = str(event.data.get("state"))
        if state == "started":
            words = "Fine-tuning job started" if event.attempt == 1 else "Fine-tuning job goes on"
            yield Line(words, source=source)
        elif state in _STAGES:
            yield Line(_STAGES[state], source=source)
    elif event.type == "warning":
        yield Line(str(event.data.get("message")), level="warn", source=source)
    elif event.type == "step":
        yield _step(event, steps[event.step or 0], source)
    elif event.type == "evaluation" and event.step is not None:
        yield _evaluation(event, steps.get(event.step, {"step": event.step}), source)


def _step(event: Event, metrics: Mapping[str, Any], source: str) -> Line:
    total = event.data.get("total_steps")
    data = {
        **metrics,
        "total_steps": total,
        "learning_rate": event.data.get("learning_rate"),
        "tokens_per_second": event.data.get("tokens_per_second"),
        "memory_bytes": event.data.get("memory_bytes"),
        "seconds_left": event.data.get("eta_seconds"),
    }
    message = f"Step {event.step}/{total}: training loss={_number(metrics.get('train_loss'))}"
    return Line(message, data=data, source=source, metrics=True)


def _evaluation(event: Event, metrics: Mapping[str, Any], source: str) -> Line:
    numbers = {**metrics, **validation_of(event)}
    message = (
        f"Step {event.step}: training loss={_number(numbers.get('train_loss'))}, "
        f"full validation loss={_number(numbers.get('full_valid_loss'))}"
    )
    return Line(message, data=numbers, source=source, metrics=True)


def _number(value: Any) -> str:
    return "unknown" if value is None else f"{value:.2f}"
