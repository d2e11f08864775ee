"""The form of report.json, version 1.

Fields may be added without a new version: a reader keeps what it does not know. A field that changes its meaning
raises FORMAT, and :func:`parse_report` then lifts older reports to it; reports of a later Tunesmith are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunesmith.errors import DataError, Problem

FORMAT = 1

Number = float | None
"""A value that may be missing; NaN and infinity have no place in JSON and are written as null."""


class Part(BaseModel):
    """Base of all parts: typed where known, keeping what later versions add."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Interval(Part):
    """A value with its 95 % interval."""

    value: Number = None
    low: Number = None
    high: Number = None


class MetricValue(Interval):
    """A metric's value with its interval and its direction."""

    higher_is_better: bool = True


class Generation(Part):
    """What answering cost: generated tokens, seconds, rows."""

    tokens: int | None = None
    seconds: Number = None
    rows: int | None = None


class Tokens(Part):
    """What went through the model: tokens of rows and prompts, and of answers."""

    read: int = 0
    written: int = 0


class System(Part):
    """One contestant: the base model, the base model with examples in the prompt, or the tuned model."""

    name: str
    label: str = ""
    loss: Interval | None = None
    perplexity: Interval | None = None
    metrics: dict[str, MetricValue] = Field(default_factory=dict)
    generation: Generation | None = None
    tokens: Tokens | None = None
    details: dict[str, Any] = Field(default_factory=dict)


class Verdict(Part):
    """The paired comparison of tuned against base on the primary metric; pieces of one text are one of the rows."""

    metric: str
    base: Number = None
    tuned: Number = None
    difference: Number = None
    low: Number = None
    high: Number = None
    decided: bool = False
    rows: int | None = None
    text: str = ""


class Sample(Part):
    """One held-out row with every system's answer; scores are 0 to 1, or None where nothing can be marked."""

    place: str
    prompt: str
    reference: str | None = None
    answers: dict[str, str] = Field(default_factory=dict)
    scores: dict[str, Number] | None = None


class TrainPoint(Part):
    """One optimizer step."""

    step: int
    loss: Number = None
    learning_rate: Number = None
    gradient_norm: Number = None
    tokens: int | None = None
    seconds: Number = None


class ValidationPoint(Part):
    """One validation during training."""

    step: int
    loss: Number = None


class Curves(Part):
    """What happened over the steps."""

    train: list[TrainPoint] = Field(default_factory=list)
    validation: list[ValidationPoint] = Field(default_factory=list)


class RankHeld(Part):
    """Bytes that one process held of weights, gradients, moments and copies of trained weights, as it was counted.

    ``offloaded`` says whether they lie in the host's memory because the run wanted it so.
    """

    weights_bytes: int
    gradients_bytes: int
    moments_bytes: int
    copies_bytes: int = 0
    offloaded: bool = False


class Cost(Part):
    """What the run took. ``wall_seconds`` has ``total`` and one entry a stage.

    ``best_step`` is the step whose weights are the result, where validations decided that. ``rank_memory_bytes`` is the
    peak of each process, where several shared the training, and ``rank_held`` what each held of it.
    """

    steps: int | None = None
    best_step: int | None = None
    epochs: Number = None
    trained_tokens: int | None = None
    tokens: int | None = None
    tokens_per_second: Number = None
    wall_seconds: dict[str, Number] = Field(default_factory=dict)
    peak_memory_bytes: int | None = None
    rank_memory_bytes: list[int] | None = None
    rank_held: list[RankHeld] | None = None
    trained_parameters: int | None = None
    total_parameters: int | None = None


class Foreseen(Part):
    """One number that was predicted before the run, beside what the run took."""

    what: str
    predicted: Number = None
    measured: Number = None


class FileHash(Part):
    """One file of the data with its SHA-256."""

    name: str
    sha256: str


class Side(Part):
    """The training or the validation data."""

    source: str = ""
    files: list[FileHash] = Field(default_factory=list)
    rows: int | None = None
    used_rows: int | None = None
    skipped_rows: int | None = None
    tokens: int | None = None
    trained_tokens: int | None = None


class Data(Part):
    """Both sides of the data, and what they share."""

    train: Side = Field(default_factory=Side)
    validation: Side | None = None
    duplicates: int | None = None
    overlap: int | None = None
    split: str | None = None


class Check(Part):
    """One named check of the audit."""

    name: str
    ok: bool
    detail: str = ""


class LearningPoint(Part):
    """One run of the learning curve: the share of the training rows it saw and how it did."""

    fraction: float
    rows: int | None = None
    loss: Number = None
    metric: Number = None


class Memorised(Part):
    """What answers share with the training rows: of all stretches of so many words the share, and the longest one."""

    share: Number = None
    longest_words: int | None = None
    ngram_words: int | None = None


class Resolved(Part):
    """A value that the run chose, and why."""

    value: Any = None
    reason: str = ""


class Model(Part):
    """The base model."""

    name: str = ""
    source: str | None = None
    revision: str | None = None
    parameters: int | None = None
    licence: str | None = None


class Report(Part):
    """A whole report. Only what names the run is required, so that a run that stopped early can be shown.

    ``against_examples`` is as ``verdict``, with the base that has examples in its prompt in the place of the base.
    """

    format: int = FORMAT
    run: str
    created: str
    tunesmith: str = ""
    task: str = ""
    objective: str = ""
    technique: dict[str, Any] = Field(default_factory=dict)
    model: Model = Field(default_factory=Model)
    primary_metric: str | None = None
    systems: list[System] = Field(default_factory=list)
    verdict: Verdict | None = None
    against_examples: Verdict | None = None
    samples: list[Sample] = Field(default_factory=list)
    curves: Curves = Field(default_factory=Curves)
    cost: Cost = Field(default_factory=Cost)
    plan: list[Foreseen] | None = None
    data: Data = Field(default_factory=Data)
    audit: list[Check] = Field(default_factory=list)
    learning_curve: list[LearningPoint] | None = None
    memorisation: dict[str, Memorised] | None = None
    resolved: dict[str, Resolved] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    warnings: list[str] = Field(default_factory=list)


def clean(value: Any) -> Any:
    """Plain data that UTF-8 JSON can hold: half surrogate pairs become U+FFFD, NaN and infinity become None.

    NumPy numbers become Python's; keys become texts; tuples become lists.
    """
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {clean(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if callable(getattr(value, "tolist", None)):
        return clean(value.tolist())
    return clean(str(value))


def parse_report(data: Any) -> Report:
    """Read a report of this version or an older one.

    Raises:
        DataError: ``report.format`` when a later Tunesmith wrote it, ``report.invalid`` with every wrong field.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("format"), int):
        raise DataError("this is not a report: it has no format number", code="report.invalid")
    if data["format"] > FORMAT:
        raise DataError(
            "a later Tunesmith wrote this report",
            code="report.format",
            value=f"format {data['format']}, known up to {FORMAT}",
            hint="upgrade Tunesmith",
        )
    try:
        return Report.model_validate(clean(data))
    except ValidationError as error:
        problems = [
            Problem(
                code="report.invalid",
                message=wrong["msg"],
                place=".".join(map(str, wrong["loc"])),
                value=repr(wrong["input"])[:80],
            )
            for wrong in error.errors(include_url=False)
        ]
        raise DataError("the report does not have the form of report.json", problems=problems) from error
