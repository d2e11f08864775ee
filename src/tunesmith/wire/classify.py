"""Requests and answers of ``/v1/classify``, a path of Tunesmith's own for models that put labels on texts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_INPUTS = 1024


class QuestionInput(BaseModel):
    """What a head that marks answers reads."""

    model_config = ConfigDict(extra="forbid")
    question: str
    context: str


class ClassifyRequest(BaseModel):
    """The body of a request; nothing but these fields is understood."""

    model_config = ConfigDict(extra="forbid")
    model: str
    input: list[str | QuestionInput] = Field(min_length=1, max_length=MOST_INPUTS)


class Entity(BaseModel):
    """A stretch of a text and its label: characters ``start`` (included) to ``end`` (excluded).

    ``score`` is the lowest probability among the tags of its words.
    """

    text: str
    label: str
    start: int
    end: int
    score: float


class Classified(BaseModel):
    """What a head says of one input; which fields there are depends on the head.

    One label a text: ``label``, its probability ``score``, and ``scores`` of all labels. One tag a word: ``entities``.
    Answers: ``answer`` and the probability ``score`` of its two ends.
    """

    index: int
    label: str | None = None
    score: float | None = None
    scores: dict[str, float] | None = None
    entities: list[Entity] | None = None
    answer: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields that are there."""
        return self.model_dump(exclude_none=True)


class ClassificationUsage(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class Classification(BaseModel):
    """The answer: one entry for each input, in order."""

    object: Literal["list"] = "list"
    model: str
    data: list[Classified]
    # Servers of earlier versions did not count.
    usage: ClassificationUsage | None = None
