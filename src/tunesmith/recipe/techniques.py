"""Which weights train: one variant for each technique."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tunesmith.recipe.parts import Part, Positive, PositiveInt, ShareOrZero


class LowRank(Part):
    """What all low-rank adapters share."""

    name: str
    rank: PositiveInt = Field(16, description="Rank of the adapters.")
    alpha: Positive = Field(
        32.0, description="Adapters are scaled by alpha / rank, or by alpha / sqrt(rank) where rank_stabilized."
    )
    targets: Literal["all-linear", "attention"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "all-linear", description="Which modules get an adapter: all-linear, attention, or a list of names."
    )
    dropout: ShareOrZero = Field(0.0, description="Dropout before the adapters.")
    rank_stabilized: bool = Field(
        False, description="Scale by alpha / sqrt(rank), so that high ranks learn as fast (rsLoRA)."
    )
    rank_pattern: dict[str, PositiveInt] = Field(
        default_factory=dict, description="Other ranks for some modules, by name; the longest name that fits counts."
    )
    alpha_pattern: dict[str, Positive] = Field(
        default_factory=dict, description="Other alphas for some modules, by name; the longest name that fits counts."
    )
    learning_rate_ratio: Positive = Field(
        1.0, description="How many times as fast the B matrices learn as the A matrices (LoRA+; 16 is usual there)."
    )
    initialization: Literal["default", "gaussian", "pissa", "olora", "eva", "loftq"] = Field(
        "default",
        description="What the adapters begin as: nothing (default, gaussian), the largest part of the weights (pissa, "
        "olora: the saved adapter has twice the rank), where inputs spread most (eva), or what quantization lost "
        "(loftq).",
    )


class Lora(LowRank):
    """Low-rank adapters beside frozen weights (Hu et al. 2021)."""

    name: Literal["lora"] = "lora"


class Dora(LowRank):
    """Low-rank adapters for the direction of the weights, and a length of its own (Liu et al. 2024)."""

    name: Literal["dora"] = "dora"


class Quantized(LowRank):
    """Low-rank adapters beside frozen weights in fewer bits."""

    quantization: Literal["nf4", "int8"] = Field(
        "nf4", description="The form of the frozen weights: four bits (nf4) or eight (int8)."
    )
    double_quantization: bool = Field(True, description="Quantize the scales of nf4 too, which saves some more.")


class Qlora(Quantized):
    """LoRA on a model in four or eight bits (Dettmers et al. 2023)."""

    name: Literal["qlora"] = "qlora"


class Qdora(Quantized):
    """DoRA on a model in four or eight bits."""

    name: Literal["qdora"] = "qdora"


class Freeze(Part):
    """The last layers train, the others stay as they are."""

    name: Literal["freeze"] = "freeze"
    layers: PositiveInt = Field(2, description="How many of the last layers train (of encoder and decoder each).")
    head: bool = Field(
        True,
        description="Also train what stands behind the layers: final norm and output matrix (not one that the "
        "embeddings share). The fresh head of a classifier trains in any case.",
    )


PEFT_METHODS = (
    "adalora",
    "adamss",
    "boft",
    "c3a",
    "deft",
    "delora",
    "fourierft",
    "frod",
    "glora",
    "gralora",
    "hira",
    "hra",
    "ia3",
    "lily",
    "ln_tuning",
    "loha",
    "lokr",
    "miss",
    "oft",
    "osf",
    "p_tuning",
    "peanut",
    "prefix_tuning",
    "prompt_tuning",
    "psoft",
    "pvera",
    "randlora",
    "road",
    "shira",
    "supertuning",
    "tinylora",
    "unilora",
    "vblora",
    "vera",
    "waveft",
)
# Methods that learn virtual tokens before the text instead of changing layers.
VIRTUAL_TOKENS = ("p_tuning", "prefix_tuning", "prompt_tuning")


class PeftMethod(Part):
    """Any other method of the PEFT library, by its name there."""

    name: Literal[PEFT_METHODS]  # type: ignore[valid-type]
    targets: Literal["auto", "all-linear", "attention"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "auto", description="Which modules the method changes: what suits it (auto), all-linear, attention, or names."
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Fields of the library's config for this method, by their names there."
    )


class Full(Part):
    """All weights train."""

    name: Literal["full"] = "full"


def _lora_unless_named(value: Any) -> Any:
    """Settings without a name change the default technique, so that ``technique.rank=8`` is enough."""
    if isinstance(value, Mapping):
        return {"name": "lora", **value}
    return {"name": value} if isinstance(value, str) else value


# Techniques that change the model's own weights, so that the model before training is gone.
OWN_WEIGHTS = ("full", "freeze")
# Techniques that can train the rows of new tokens.
LEARN_TOKENS = ("lora", "dora", "qlora", "qdora", "full")
# Beginnings after which the model without its adapter is no longer the model as it was.
PLAIN_BEGINNINGS = ("default", "gaussian")
MOVING = ("pissa", "olora")


def draws_in_training(technique: Part) -> bool:
    """Whether a technique draws numbers for each row while it trains, so that rows may not share a beginning."""
    settings: Mapping[str, Any] = getattr(technique, "settings", {})
    in_settings = any("dropout" in name and value for name, value in settings.items())
    return getattr(technique, "dropout", 0) > 0 or in_settings or getattr(technique, "name", "") == "pvera"


TechniqueSpec = Lora | Dora | Qlora | Qdora | PeftMethod | Freeze | Full
Technique = Annotated[Annotated[TechniqueSpec, Field(discriminator="name")], BeforeValidator(_lora_unless_named)]
