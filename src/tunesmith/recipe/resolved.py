"""A recipe with every ``auto`` resolved, each value with its reason."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from tunesmith.errors import RecipeError
from tunesmith.recipe.objectives import ObjectiveSpec
from tunesmith.recipe.parts import Part
from tunesmith.recipe.techniques import TechniqueSpec

VERSION = 1


@dataclass(frozen=True)
class Resolved:
    """All values of a run; nothing is ``auto``. ``reasons`` has an entry for each dotted key of :data:`KEYS`.

    ``epochs`` is how often rows are to be seen; with ``budget_seconds`` (time for the whole run) it is the most.
    ``few_shot`` is 0 and ``max_new_tokens`` is 0 where nothing is asked.
    """

    model: str
    task: str
    objective: ObjectiveSpec
    technique: TechniqueSpec
    seed: int
    epochs: float
    budget_seconds: float | None
    optimizer: str
    learning_rate: float
    schedule: Literal["cosine", "linear", "constant"]
    warmup: float
    weight_decay: float
    clip: float | None
    tokens_per_step: int
    sampler: Literal["random", "grouped"]
    max_length: int
    neftune_alpha: float | None
    patience: int | None
    on_non_finite: Literal["stop", "skip"]
    metrics: tuple[str, ...]
    samples: int
    evaluation_rows: int
    few_shot: int
    max_new_tokens: int
    probe: bool
    multiple_choice: str | None
    learning_curve: bool
    strategy: Literal["single", "ddp", "fsdp", "zero1", "zero2", "zero3"]
    devices: int
    nodes: int
    offload: bool
    precision: Literal["float32", "bfloat16"]
    tokens_per_micro_batch: int
    activation_checkpointing: bool | int
    layout: Literal["packed", "padded"]
    share_prefix: bool
    checkpoint_every_steps: int | None
    keep_checkpoints: int
    validate_every_steps: int | None
    reasons: Mapping[str, str]

    @property
    def identity(self) -> str:
        """SHA-256 of the portable values: what the run is, whatever machine it runs on."""
        values = {key: self._plain(field) for key, field in PORTABLE.items()}
        return hashlib.sha256(orjson.dumps(values, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def value(self, key: str) -> Any:
        """The plain value of a dotted key of the recipe."""
        return self._plain(KEYS[key])

    def to_json(self) -> dict[str, Any]:
        """The content of resolved.json: a portable part with its hash, and what this machine's probes chose."""

        def part(keys: Mapping[str, str]) -> dict[str, Any]:
            return {
                key: {"value": self._plain(field), "reason": self.reasons.get(key, "")} for key, field in keys.items()
            }

        return {"version": VERSION, "identity": self.identity, "portable": part(PORTABLE), "host": part(HOST)}

    def _plain(self, field: str) -> Any:
        value = getattr(self, field)
        if isinstance(value, Part):
            return value.model_dump(mode="json")
        return list(value) if isinstance(value, tuple) else value


# Key of the recipe: field of Resolved. What is in HOST changes memory and time, not what the run is.
PORTABLE: Mapping[str, str] = {
    "model": "model",
    "task": "task",
    "objective": "objective",
    "technique": "technique",
    "train.seed": "seed",
    "train.epochs": "epochs",
    "train.budget_seconds": "budget_seconds",
    "train.optimizer": "optimizer",
    "train.learning_rate": "learning_rate",
    "train.schedule": "schedule",
    "train.warmup": "warmup",
    "train.weight_decay": "weight_decay",
    "train.clip": "clip",
    "train.tokens_per_step": "tokens_per_step",
    "train.sampler": "sampler",
    "train.max_length": "max_length",
    "train.neftune_alpha": "neftune_alpha",
    "train.patience": "patience",
    "train.on_non_finite": "on_non_finite",
    "train.validate_every_steps": "validate_every_steps",
    "evaluate.metrics": "metrics",
    "evaluate.samples": "samples",
    "evaluate.rows": "evaluation_rows",
    "evaluate.few_shot": "few_shot",
    "evaluate.max_new_tokens": "max_new_tokens",
    "evaluate.probe": "probe",
    "evaluate.multiple_choice": "multiple_choice",
    "evaluate.learning_curve": "learning_curve",
}
HOST: Mapping[str, str] = {
    "strategy": "strategy",
    "train.devices": "devices",
    "train.nodes": "nodes",
    "train.offload": "offload",
    "train.precision": "precision",
    "train.tokens_per_micro_batch": "tokens_per_micro_batch",
    "train.activation_checkpointing": "activation_checkpointing",
    "train.layout": "layout",
    "train.share_prefix": "share_prefix",
    "train.checkpoint_every_steps": "checkpoint_every_steps",
    "train.keep_checkpoints": "keep_checkpoints",
}
KEYS: Mapping[str, str] = {**PORTABLE, **HOST}
# What runs did before there was a choice.
_BEFORE: Mapping[str, Any] = {"train.sampler": "random", "train.devices": 1, "train.nodes": 1, "train.offload": False}
_VARIANTS: Mapping[str, TypeAdapter[Any]] = {
    "technique": TypeAdapter(Annotated[TechniqueSpec, Field(discriminator="name")]),
    "objective": TypeAdapter(Annotated[ObjectiveSpec, Field(discriminator="name")]),
}


def resolved_from_json(data: Mapping[str, Any]) -> Resolved:
    """Read what :meth:`Resolved.to_json` wrote; keys that a later version added are passed over.

    Raises:
        RecipeError: A later version changed the form, a value is missing, or the technique is an unknown one.
    """
    if data.get("version") != VERSION:
        raise RecipeError(
            "resolved values of another version cannot be read",
            code="recipe.resolved_version",
            value=f"version {data.get('version')}, known is {VERSION}",
            hint="use the Tunesmith that the run began with, or start a new run",
        )
    earlier = {key: {"value": value, "reason": "there was no choice"} for key, value in _BEFORE.items()}
    items = {**earlier, **data.get("portable", {}), **data.get("host", {})}
    missing = [key for key in KEYS if "value" not in items.get(key, {})]
    if missing:
        raise RecipeError("resolved values are missing", code="recipe.resolved_missing", value=", ".join(missing))
    values = {field: items[key]["value"] for key, field in KEYS.items()}
    for field, variants in _VARIANTS.items():
        # Version 1 had one objective, by its name alone.
        plain = {"name": values[field]} if isinstance(values[field], str) else values[field]
        try:
            values[field] = variants.validate_python(plain)
        except ValidationError as error:
            raise RecipeError(f"the {field} cannot be read", code=f"recipe.resolved_{field}", value=plain) from error
    values["metrics"] = tuple(values["metrics"])
    return Resolved(**values, reasons={key: items[key].get("reason", "") for key in KEYS})


def explain(resolved: Resolved) -> list[tuple[str, Any, str]]:
    """Key, value and reason of everything, for printing."""
    return [(key, resolved.value(key), resolved.reasons.get(key, "")) for key in KEYS]


assert {field.name for field in fields(Resolved)} == {*KEYS.values(), "reasons"}
