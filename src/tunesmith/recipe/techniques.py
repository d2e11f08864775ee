"""Which weights train: one variant for each technique."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tunesmith.recipe.parts import Part, Positive, PositiveInt, ShareOrZero


class Lora(Part):
    """Low-rank adapters beside frozen weights (Hu et al. 2021)."""

    name: Literal["lora"] = "lora"
    rank: PositiveInt = Field(16, description="Rank of the adapters.")
    alpha: Positive = Field(32.0, description="Adapters are scaled by alpha / rank.")
    targets: Literal["all-linear", "attention"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "all-linear", description="Which modules get an adapter: all-linear, attention, or a list of names."
    )
    dropout: ShareOrZero = Field(0.0, description="Dropout before the adapters.")


class Full(Part):
    """All weights train."""

    name: Literal["full"] = "full"


def _lora_unless_named(value: Any) -> Any:
    """Settings without a name change the default technique, so that ``technique.rank=8`` is enough."""
    if isinstance(value, Mapping):
        return {"name": "lora", **value}
    return {"name": value} if isinstance(value, str) else value


# Techniques that change the model's own weights, so that the model before training is gone.
OWN_WEIGHTS = ("full",)

TechniqueSpec = Lora | Full
Technique = Annotated[Annotated[TechniqueSpec, Field(discriminator="name")], BeforeValidator(_lora_unless_named)]
