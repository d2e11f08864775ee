"""The models that KAITO can tune, and which of their modules get an adapter.

KAITO tunes ten presets and no others. For Phi-3 it sets a list of modules itself (q_proj, k_proj, v_proj, o_proj,
gate_proj, up_proj, down_proj) of which those models have only o_proj and down_proj: queries, keys and values are one
matrix there, and so are gate and up. PEFT complains only where nothing fits, so most of the model would go untrained
and nobody would be told. Modules are therefore always named, from what the catalog knows of the model.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.catalog.entries import CatalogEntry, find_entry, find_entry_of_hub_id
from tunesmith.errors import RecipeError
from tunesmith.recipe.executors.kaito import Kaito
from tunesmith.recipe.techniques import Lora, Qlora

# The preset's name, the hub id, and the catalog's entry of the same architecture where the model itself has none.
_PRESETS = {
    "phi-4": ("microsoft/phi-4", "phi-4"),
    "phi-4-mini-instruct": ("microsoft/Phi-4-mini-instruct", "phi-4-mini-instruct"),
    "phi-3-mini-4k-instruct": ("microsoft/Phi-3-mini-4k-instruct", "phi-3-mini-4k-instruct"),
    "phi-3-mini-128k-instruct": ("microsoft/Phi-3-mini-128k-instruct", "phi-3-mini-128k-instruct"),
    "phi-3-medium-4k-instruct": ("microsoft/Phi-3-medium-4k-instruct", "phi-3-medium-4k-instruct"),
    "phi-3-medium-128k-instruct": ("microsoft/Phi-3-medium-128k-instruct", "phi-3-medium-128k-instruct"),
    "phi-3.5-mini-instruct": ("microsoft/Phi-3.5-mini-instruct", "phi-3.5-mini-instruct"),
    "mistral-7b-v0.3": ("mistralai/Mistral-7B-v0.3", "mistral-7b-v0.3"),
    "qwen2.5-coder-7b-instruct": ("Qwen/Qwen2.5-Coder-7B-Instruct", "qwen2.5-7b-instruct"),
    "qwen2.5-coder-32b-instruct": ("Qwen/Qwen2.5-Coder-32B-Instruct", "qwen2.5-32b-instruct"),
}
# Models that only continue texts have no chat template of their own.
_WITHOUT_TEMPLATE = frozenset({"mistral-7b-v0.3"})
TUNABLE = tuple(_PRESETS)


@dataclass(frozen=True)
class Preset:
    """A model that KAITO can tune.

    Attributes:
        name: KAITO's name.
        hub_id: The hub's id of the same weights.
        architecture: What the catalog knows of this model, or of one that is built alike.
    """

    name: str
    hub_id: str
    architecture: CatalogEntry

    @property
    def has_template(self) -> bool:
        """Whether its tokenizer knows how conversations are written."""
        return self.name not in _WITHOUT_TEMPLATE


def find_preset(model: str, spec: Kaito) -> Preset:
    """The preset of a recipe's model.

    Raises:
        RecipeError: ``kaito.preset``: KAITO cannot tune the model, or the recipe names a preset of another model.
    """
    hub_id = _hub_id(model)
    fitting = next((name for name, (known, _) in _PRESETS.items() if known.lower() == hub_id.lower()), None)
    if spec.preset != "auto" and spec.preset not in _PRESETS:
        raise _no_preset("KAITO has no tuning preset of this name", "executor.preset", spec.preset)
    if fitting is None:
        raise _no_preset("KAITO has no tuning preset for this model", "model", model)
    if spec.preset not in ("auto", fitting):
        raise RecipeError(
            "the preset is another model than the recipe's",
            code="kaito.preset",
            place="executor.preset",
            value=f"{spec.preset}, and model is {model}",
            hint=f"leave the preset out, or write {fitting}",
        )
    known, entry_id = _PRESETS[fitting]
    entry = find_entry(entry_id)
    assert entry is not None
    return Preset(fitting, known, entry)


def target_modules(preset: Preset, technique: Lora | Qlora) -> list[str]:
    """The modules that get an adapter, by the names that they have in the model.

    Raises:
        RecipeError: ``kaito.targets``: the recipe names a module that the model does not have.
    """
    there = preset.architecture.lora_targets
    if technique.targets == "all-linear":
        return list(there)
    if technique.targets == "attention":
        return list(preset.architecture.attention_targets)
    missing = [name for name in technique.targets if name not in there]
    if missing:
        raise RecipeError(
            f"{preset.name} has no such modules",
            code="kaito.targets",
            place="technique.targets",
            value=", ".join(missing),
            hint=f"its linear modules are {', '.join(there)}; the trainer would train the others and say nothing",
        )
    return list(technique.targets)


def _hub_id(model: str) -> str:
    entry = find_entry(model) or find_entry_of_hub_id(model)
    sources = () if entry is None else entry.sources
    return next((source.name for source in sources if source.kind == "hub"), model)


def _no_preset(message: str, place: str, value: str) -> RecipeError:
    return RecipeError(
        message,
        code="kaito.preset",
        place=place,
        value=value,
        hint=f"it tunes {', '.join(TUNABLE)}; for other models use executor kubernetes",
    )
