"""What cannot be exported, as far as the recipe shows it: rows of the table of refusals."""

from __future__ import annotations

from tunesmith.recipe.exports import export_spec
from tunesmith.recipe.fitting import objective_of
from tunesmith.recipe.objectives import HEADS
from tunesmith.recipe.refusal import Facts, Refusal
from tunesmith.recipe.schema import Recipe
from tunesmith.recipe.techniques import OWN_WEIGHTS, VIRTUAL_TOKENS

_FOR_WRITING = ("gguf", "onnx-adapter")
_OF_ADAPTERS = ("adapter", "onnx-adapter")
_MERGED = ("merged", "gguf", "onnx")
# Adapters that are two matrices beside a layer and nothing else.
_PLAIN_LORA = ("lora", "qlora")
_UNMERGED = (*VIRTUAL_TOKENS, "lily")


def _forms(recipe: Recipe) -> set[str]:
    return {export_spec(one).to for one in recipe.export}


def _objective(recipe: Recipe, facts: Facts) -> str:
    return objective_of(recipe, task=facts.data.task, shape=facts.data.shape, model_kind=facts.model.kind).name


OF_EXPORTS: tuple[Refusal, ...] = (
    Refusal(
        "recipe.export_seq2seq",
        "export",
        "models with an encoder and a decoder are not exported",
        "leave export out; the run's own folder loads in Transformers",
        lambda recipe, facts: bool(recipe.export) and _objective(recipe, facts) == "seq2seq",
    ),
    Refusal(
        "recipe.export_head",
        "export",
        "this form is for models that write, and a head writes nothing",
        "heads are exported to adapter, merged and onnx",
        lambda recipe, facts: _objective(recipe, facts) in HEADS and bool(_forms(recipe) & set(_FOR_WRITING)),
    ),
    Refusal(
        "recipe.export_no_adapter",
        "export",
        "this technique trains the model itself, so there is no adapter to export",
        "export to merged, gguf or onnx",
        lambda recipe, _: recipe.technique.name in OWN_WEIGHTS and bool(_forms(recipe) & set(_OF_ADAPTERS)),
    ),
    Refusal(
        "recipe.export_adapter",
        "export",
        "only plain LoRA adapters switch on one ONNX model",
        "train with technique: lora, or export to onnx, which works the adapter into the model",
        lambda recipe, _: (
            "onnx-adapter" in _forms(recipe) and recipe.technique.name not in (*_PLAIN_LORA, *OWN_WEIGHTS)
        ),
    ),
    Refusal(
        "recipe.export_unmerged",
        "export",
        "what this technique learns is no change of the model's weights, so that it cannot be worked into them",
        "export to adapter, or train with technique: lora",
        lambda recipe, _: recipe.technique.name in _UNMERGED and bool(_forms(recipe) & set(_MERGED)),
    ),
)
