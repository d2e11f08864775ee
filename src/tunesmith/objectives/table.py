"""The objectives by name: one row each, from the recipe's variant to the objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tunesmith.errors import RecipeError
from tunesmith.objectives.base import Objective
from tunesmith.objectives.dpo import Dpo
from tunesmith.objectives.kto import Kto
from tunesmith.objectives.label_loss import LabelLoss, head_losses, written_token_losses
from tunesmith.objectives.orpo import Orpo
from tunesmith.objectives.question_answering import QuestionAnswering


class ObjectiveSpec(Protocol):
    """An objective as the recipe spells it: its name, and whatever fields its variant has."""

    @property
    def name(self) -> str:
        """Key of the table."""


def _sft(spec: Any) -> Objective:
    return LabelLoss(label_smoothing=spec.label_smoothing)


def _dpo(spec: Any) -> Objective:
    return Dpo(beta=spec.beta, form=spec.loss, label_smoothing=spec.label_smoothing)


def _orpo(spec: Any) -> Objective:
    return Orpo(beta=spec.beta)


def _kto(spec: Any) -> Objective:
    return Kto(beta=spec.beta, desirable_weight=spec.desirable_weight, undesirable_weight=spec.undesirable_weight)


def _classes(spec: Any) -> Objective:
    return LabelLoss(label_smoothing=spec.label_smoothing, losses=head_losses)


def _question_answering(_spec: Any) -> Objective:
    return QuestionAnswering()


def _seq2seq(spec: Any) -> Objective:
    return LabelLoss(label_smoothing=spec.label_smoothing, losses=written_token_losses)


# Text differs from sft in which tokens train, which is the data's matter.
OBJECTIVES: dict[str, Callable[[Any], Objective]] = {
    "sft": _sft,
    "text": _sft,
    "dpo": _dpo,
    "orpo": _orpo,
    "kto": _kto,
    "sequence_classification": _classes,
    "token_classification": _classes,
    "question_answering": _question_answering,
    "seq2seq": _seq2seq,
}


def make_objective(spec: ObjectiveSpec) -> Objective:
    """The objective of a recipe.

    Raises:
        RecipeError: There is none of that name.
    """
    if spec.name not in OBJECTIVES:
        raise RecipeError(
            "no such objective",
            code="recipe.objective",
            place="objective.name",
            value=spec.name,
            hint=f"objectives of this version: {', '.join(OBJECTIVES)}",
        )
    return OBJECTIVES[spec.name](spec)
