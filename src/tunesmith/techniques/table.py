"""The techniques by name: one row each, from the recipe's variant to the technique."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tunesmith.errors import RecipeError
from tunesmith.models.quantized import Quantization
from tunesmith.techniques.adalora import AdaLora
from tunesmith.techniques.base import Technique
from tunesmith.techniques.freeze import Freeze
from tunesmith.techniques.full import Full
from tunesmith.techniques.lora import Lora
from tunesmith.techniques.peft_method import PeftMethod
from tunesmith.techniques.peft_methods import METHODS


class TechniqueSpec(Protocol):
    """A technique as the recipe spells it: its name, and whatever fields its variant has."""

    @property
    def name(self) -> str:
        """Key of the table."""


def _lora(spec: Any) -> Technique:
    return Lora(**spec.model_dump(exclude={"name"}))


def _dora(spec: Any) -> Technique:
    return Lora(**spec.model_dump(exclude={"name"}), decomposed=True)


def _qlora(spec: Any) -> Technique:
    return _quantized(spec, decomposed=False)


def _qdora(spec: Any) -> Technique:
    return _quantized(spec, decomposed=True)


def _quantized(spec: Any, *, decomposed: bool) -> Technique:
    settings = spec.model_dump(exclude={"name", "quantization", "double_quantization"})
    return Lora(
        **settings, decomposed=decomposed, quantization=Quantization(spec.quantization, spec.double_quantization)
    )


def _freeze(spec: Any) -> Technique:
    return Freeze(layers=spec.layers, head=spec.head)


def _full(_spec: Any) -> Technique:
    return Full()


def _peft_method(spec: Any) -> Technique:
    return PeftMethod(spec.name, spec.targets, spec.settings)


def _adalora(spec: Any) -> Technique:
    return AdaLora(spec.targets, spec.settings)


TECHNIQUES: dict[str, Callable[[Any], Technique]] = {
    "lora": _lora,
    "dora": _dora,
    "qlora": _qlora,
    "qdora": _qdora,
    **dict.fromkeys(METHODS, _peft_method),
    "adalora": _adalora,
    "freeze": _freeze,
    "full": _full,
}


def make_technique(spec: TechniqueSpec) -> Technique:
    """The technique of a recipe.

    Raises:
        RecipeError: There is none of that name.
    """
    if spec.name not in TECHNIQUES:
        raise RecipeError(
            "no such technique",
            code="recipe.technique",
            place="technique.name",
            value=spec.name,
            hint=f"techniques of this version: {', '.join(TECHNIQUES)}",
        )
    return TECHNIQUES[spec.name](spec)
