"""What KAITO's trainer cannot do: what changes the training is refused by name, what only measures it is told."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from tunesmith.errors import Problem, RecipeError
from tunesmith.executors.kaito.presets import Preset
from tunesmith.recipe.executors.kaito import Kaito
from tunesmith.recipe.exports import export_spec
from tunesmith.recipe.schema import Recipe
from tunesmith.recipe.techniques import Lora, Qlora

# Keys of `train` that its trainer has no counterpart of, and why; they are refused where they differ from the default.
_NO_COUNTERPART = {
    "tokens_per_step": "its steps are counted in rows; see executor.rows_per_step",
    "rows_per_step": "see executor.rows_per_step",
    "learning_rate_multiplier": "it chooses no rate; give train.learning_rate",
    "tokens_per_micro_batch": "its batches are counted in rows; see executor.rows_per_micro_batch",
    "address": "it tunes on one node",
    "offload": "it keeps all on the GPUs",
    "sampler": "it draws rows one by one",
    "budget": "it trains for a number of epochs and knows no limit of time or tokens",
    "checkpoint_every_steps": "it cannot resume, so nothing would read its checkpoints",
    "keep_checkpoints": "it cannot resume, so nothing would read its checkpoints",
    "validate_every_steps": "it does not measure held-out rows",
    "patience": "it does not measure held-out rows, so it cannot stop by them",
    "on_non_finite": "it cannot skip a step",
}
_PLAIN_ADAPTERS = {
    "rank_pattern": "its configuration has no place for maps",
    "alpha_pattern": "its configuration has no place for maps",
    "learning_rate_ratio": "all its matrices learn at one rate",
    "initialization": "its adapters begin as nothing",
}
OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "lion_8bit": "lion_8bit",
    "adafactor": "adafactor",
}


def require_possible(recipe: Recipe, spec: Kaito, preset: Preset) -> None:
    """Refuse what KAITO cannot train, all of it at once.

    Raises:
        RecipeError: ``kaito.TOPIC`` of the first problem, with one problem for each key.
    """
    problems = [
        *_technique_problems(recipe),
        *_objective_problems(recipe),
        *_train_problems(recipe),
        *_other_problems(recipe),
    ]
    if not preset.has_template and spec.chat_template is None:
        problems.append(
            Problem(
                "kaito.template",
                "this model only continues texts and has no chat template of its own",
                "executor.chat_template",
                hint="name one, in one line or by its path in KAITO's image",
            )
        )
    if problems:
        raise RecipeError("KAITO's trainer cannot do what the recipe asks for", problems=problems)


def warnings_for(recipe: Recipe, spec: Kaito) -> list[str]:
    """What will be otherwise than with our own worker, though nobody asked for it by name."""
    told = [
        "KAITO trains on whole conversations, questions too: it has no loss on the assistant's turns alone",
        "KAITO cannot resume: a tuning that is interrupted begins anew",
        "KAITO measures nothing on held-out rows: score the adapter with `tunesmith eval` once it is here",
        "KAITO uses all GPUs of its node; train.devices must be their number for executor.rows_per_step to be right",
    ]
    if recipe.train.max_length == "auto":
        told.append("KAITO cuts rows that are longer than the model's context, and does not say which")
    if spec.instance_type is None:
        told.append(
            "KAITO counts the GPUs of a tuning by executor.instance_type; without it, some of its versions make no Job"
        )
    if spec.rows_per_micro_batch > 1:
        # Seen with TRL 1.16 and the collator of Transformers that KAITO gives it; KAITO takes any TRL from 1.0 on.
        told.append(
            "KAITO's collator may fail on rows of different lengths: executor.rows_per_micro_batch=1 is safe, and "
            "executor.rows_per_step still says how many rows make a step"
        )
    if spec.input.store is None:
        told.append(
            "the rows were not put anywhere: KAITO trains on what lies where executor.input says; "
            "`tunesmith submit --render DIR` writes the rows in the form that it takes"
        )
    measured = _changed(recipe.evaluate)
    if measured:
        told.append(f"KAITO does not follow {', '.join(f'evaluate.{key}' for key in measured)}")
    if recipe.fit != "refuse":
        told.append("KAITO does not follow fit: the memory of its nodes is not planned here")
    return told


def _technique_problems(recipe: Recipe) -> list[Problem]:
    technique = recipe.technique
    if not isinstance(technique, Lora | Qlora):
        reason = f"KAITO trains lora and qlora, and no {technique.name}"
        return [Problem("kaito.technique", reason, "technique", technique.name, "use executor kubernetes for others")]
    problems = [
        Problem("kaito.technique", f"KAITO cannot follow this: {_PLAIN_ADAPTERS[key]}", f"technique.{key}", str(value))
        for key, value in _changed(technique).items()
        if key in _PLAIN_ADAPTERS
    ]
    if technique.alpha != int(technique.alpha):
        problems.append(
            Problem("kaito.technique", "KAITO takes whole numbers", "technique.alpha", f"{technique.alpha:g}")
        )
    return problems


def _objective_problems(recipe: Recipe) -> list[Problem]:
    objective = recipe.objective
    if objective == "auto":
        return []
    if objective.name != "sft":
        return [Problem("kaito.objective", "KAITO trains with sft alone", "objective", objective.name)]
    if objective.label_smoothing:
        smoothing = f"{objective.label_smoothing:g}"
        return [Problem("kaito.objective", "KAITO does not smooth labels", "objective.label_smoothing", smoothing)]
    return []


def _train_problems(recipe: Recipe) -> list[Problem]:
    train, problems = recipe.train, []
    for key, value in _changed(train).items():
        if key in _NO_COUNTERPART:
            problems.append(
                Problem("kaito.train", f"KAITO cannot follow this: {_NO_COUNTERPART[key]}", f"train.{key}", str(value))
            )
    if train.nodes > 1:
        problems.append(
            Problem(
                "kaito.nodes", "KAITO tunes on one node", "train.nodes", str(train.nodes), "use executor kubernetes"
            )
        )
    if train.optimizer not in OPTIMIZERS:
        problems.append(Problem("kaito.train", "KAITO's image lacks it", "train.optimizer", train.optimizer))
    if train.share_prefix is True:
        problems.append(Problem("kaito.train", "KAITO computes every row whole", "train.share_prefix", "true"))
    if not isinstance(train.activation_checkpointing, bool | str):
        layers = str(train.activation_checkpointing)
        problems.append(Problem("kaito.train", "all layers or none", "train.activation_checkpointing", layers))
    if train.max_length != "auto" and recipe.data.on_long_rows != "truncate":
        problems.append(
            Problem(
                "kaito.long_rows",
                "KAITO cuts longer rows and can do nothing else with them",
                "data.on_long_rows",
                recipe.data.on_long_rows,
                "leave train.max_length out, or set data.on_long_rows=truncate",
            )
        )
    return problems


def _other_problems(recipe: Recipe) -> list[Problem]:
    problems = []
    if recipe.strategy not in ("auto", "single", "ddp"):
        problems.append(
            Problem("kaito.strategy", "KAITO's GPUs each hold the whole model", "strategy", recipe.strategy)
        )
    if recipe.export:
        places = ", ".join(export_spec(one).to for one in recipe.export)
        problems.append(
            Problem("kaito.export", "KAITO exports nothing", "export", places, "export the adapter once it is here")
        )
    if recipe.data.new_tokens:
        tokens = ", ".join(recipe.data.new_tokens)
        problems.append(Problem("kaito.new_tokens", "KAITO adds no tokens", "data.new_tokens", tokens))
    if recipe.data.on_long_rows == "skip":
        problems.append(Problem("kaito.long_rows", "KAITO leaves no rows out", "data.on_long_rows", "skip"))
    if not isinstance(recipe.data.train, str) and any(source.weight != 1 for source in recipe.data.train):
        problems.append(Problem("kaito.weights", "KAITO's rows all count once", "data.train"))
    return problems


def _changed(part: BaseModel) -> dict[str, Any]:
    """The keys of a part that differ from their defaults, with their values."""
    found = {}
    for key, field in type(part).model_fields.items():
        value = getattr(part, key)
        if not field.is_required() and value != field.get_default(call_default_factory=True):
            found[key] = value
    return found
