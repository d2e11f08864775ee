"""From a recipe's settings to the PEFT library's config of a method: known fields, target modules, task and head."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, cast

from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

from tunesmith.errors import ModelError, Problem, RecipeError
from tunesmith.techniques.adapter import adapter_options
from tunesmith.techniques.peft_methods import METHODS
from tunesmith.techniques.targets import Targets, adaptable_layers, short_names, target_names

# Fields that are decided elsewhere in the recipe, or by the model.
_DECIDED = frozenset(
    {
        *(field.name for field in dataclasses.fields(PeftConfig)),
        "target_modules",
        "feedforward_modules",
        "modules_to_save",
        "fan_in_fan_out",
        "trainable_token_indices",
    }
)
_KEYS_AND_VALUES = ("k_proj", "v_proj", "qkv_proj", "key", "value", "k", "v")
_DOWN = ("down_proj", "fc2", "wo", "output.dense", "c_proj")


def method_config(model: nn.Module, name: str, targets: Targets, settings: Mapping[str, Any]) -> Any:
    """The library's config of a method for this model; ``settings`` go before those of the table.

    Args:
        model: Tells task type, head and layers.
        name: A name of :data:`tunesmith.techniques.peft_methods.METHODS`.
        targets: ``auto`` for the layers that the method was made for.
        settings: Fields of the library's config.

    Raises:
        RecipeError: ``recipe.method_settings``: a setting is not one of the method's, or has a value that it does not
            take.
        ModelError: The model has no layers for the method.
    """
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(name.upper())]
    fields = {one.name for one in dataclasses.fields(kind)}
    _require_known(name, settings, sorted(fields - _DECIDED))
    options = {key: value for key, value in adapter_options(model).items() if key in fields}
    options |= {**METHODS[name].settings, **settings}
    if "target_modules" in fields:
        options["target_modules"] = _target_names(model, name, targets)
    if "feedforward_modules" in fields:
        options["feedforward_modules"] = [one for one in options["target_modules"] if one.endswith(_DOWN)]
    try:
        return cast(Any, kind)(**options)
    except (ValueError, TypeError) as error:
        raise RecipeError(
            "the method does not take these settings",
            code="recipe.method_settings",
            place="technique.settings",
            value=str(error).strip()[:300],
        ) from error


def _require_known(name: str, settings: Mapping[str, Any], known: list[str]) -> None:
    problems = []
    for wrong in (setting for setting in settings if setting not in known):
        near = difflib.get_close_matches(wrong, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it is one of {', '.join(known)}"
        place = f"technique.settings.{wrong}"
        problems.append(Problem("recipe.method_settings", f"{name} has no such setting", place, hint=hint))
    if problems:
        raise RecipeError("the method has no such settings", code="recipe.method_settings", problems=problems)


def _target_names(model: nn.Module, name: str, targets: Targets) -> list[str]:
    if targets != "auto":
        return target_names(model, targets)
    wanted = METHODS[name].targets
    if wanted == "linear":
        return target_names(model, "all-linear")
    if wanted == "norms":
        return _norms(model)
    layers = adaptable_layers(model)
    chosen = [layer for layer in layers if layer.endswith(tuple(f".{end}" for end in (*_KEYS_AND_VALUES, *_DOWN)))]
    if not chosen:
        raise ModelError(
            "the layers that the method was made for were not recognised",
            code="model.target",
            place="technique.targets",
            value=name,
            hint=f"name them; layers of this model: {', '.join(dict.fromkeys(layers))[:300]}",
        )
    return short_names(model, chosen)


def _norms(model: nn.Module) -> list[str]:
    """Every norm of the model, by the last part of its name."""
    found = [
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm) or type(module).__name__.endswith(("RMSNorm", "LayerNorm"))
    ]
    if not found:
        raise ModelError("the model has no norms to tune", code="model.target", value=type(model).__name__)
    return list(dict.fromkeys(found))
