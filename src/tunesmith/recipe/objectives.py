"""Which loss is minimised: one variant for each objective, and the one that fits where none is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tunesmith.recipe.parts import Auto, Part, Positive, ShareOrZero

HEADS = ("sequence_classification", "token_classification", "question_answering")
PREFERENCE = ("dpo", "orpo", "kto")


class Sft(Part):
    """Cross entropy of the answers."""

    name: Literal["sft"] = "sft"
    label_smoothing: ShareOrZero = Field(0.0, description="Share of the probability that goes to all tokens alike.")


class Text(Part):
    """Cross entropy of all tokens, questions too: continued pretraining."""

    name: Literal["text"] = "text"
    label_smoothing: ShareOrZero = Field(0.0, description="Share of the probability that goes to all tokens alike.")


class Dpo(Part):
    """Chosen answers against rejected ones, both measured against the model before training (Rafailov et al. 2023)."""

    name: Literal["dpo"] = "dpo"
    beta: Positive = Field(0.1, description="How strongly the model is held to where it began.")
    loss: Literal["sigmoid", "ipo"] = Field("sigmoid", description="sigmoid, or the squared loss of IPO.")
    label_smoothing: ShareOrZero = Field(0.0, description="Share of the pairs taken to be labelled the wrong way.")


class Orpo(Part):
    """Chosen answers learned, and rejected ones made less likely than they are; no reference (Hong et al. 2024)."""

    name: Literal["orpo"] = "orpo"
    beta: Positive = Field(0.1, description="Weight of the odds ratio.")


class Kto(Part):
    """Wanted and unwanted answers that need not come in pairs (Ethayarajh et al. 2024)."""

    name: Literal["kto"] = "kto"
    beta: Positive = Field(0.1, description="How strongly the model is held to where it began.")
    desirable_weight: Positive = Field(1.0, description="Weight of wanted answers.")
    undesirable_weight: Positive = Field(1.0, description="Weight of unwanted answers.")


class SequenceClassification(Part):
    """A head that gives each text one label."""

    name: Literal["sequence_classification"] = "sequence_classification"
    label_smoothing: ShareOrZero = Field(0.0, description="Share of the probability that goes to all labels alike.")


class TokenClassification(Part):
    """A head that gives each word a tag."""

    name: Literal["token_classification"] = "token_classification"
    label_smoothing: ShareOrZero = Field(0.0, description="Share of the probability that goes to all tags alike.")


class QuestionAnswering(Part):
    """A head that marks the answer in a text."""

    name: Literal["question_answering"] = "question_answering"


class Seq2seq(Part):
    """Cross entropy of what a model with encoder and decoder writes."""

    name: Literal["seq2seq"] = "seq2seq"
    label_smoothing: ShareOrZero = Field(0.0, description="Share of the probability that goes to all tokens alike.")


def _named(value: Any) -> Any:
    """A bare name is the variant with its defaults; settings without a name are those of sft."""
    if isinstance(value, Mapping):
        return {"name": "sft", **value}
    return {"name": value} if isinstance(value, str) and value != "auto" else value


ObjectiveSpec = (
    Sft | Text | Dpo | Orpo | Kto | SequenceClassification | TokenClassification | QuestionAnswering | Seq2seq
)
Objective = Annotated[
    Auto | Annotated[ObjectiveSpec, Field(discriminator="name")],
    BeforeValidator(_named),
]

# What fits a task where nothing is named, by the kind of model.
_OF_ENCODERS: Mapping[str, type[ObjectiveSpec]] = {
    "classification": SequenceClassification,
    "ner": TokenClassification,
    "qa": QuestionAnswering,
}


def fitting_objective(
    wanted: ObjectiveSpec | Auto, *, task: str, shape: str, model_kind: str, frozen_base: bool
) -> ObjectiveSpec:
    """The objective of a run.

    Args:
        wanted: As the recipe says.
        task: Name of the task.
        shape: Of the rows: a task may take several.
        model_kind: ``kind`` of :class:`tunesmith.recipe.facts.ModelFacts`.
        frozen_base: Whether the technique leaves the model's own weights as they are, so that the model before
            training stays at hand.
    """
    if wanted != "auto":
        return wanted
    if model_kind == "encoder_decoder":
        return Seq2seq()
    if model_kind == "encoder":
        return _OF_ENCODERS.get(task, SequenceClassification)()
    if task == "preference":
        if shape == "rated":
            return Kto()
        return Dpo() if frozen_base else Orpo()
    return Text() if task == "text" else Sft()
