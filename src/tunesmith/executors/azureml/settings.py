"""A recipe in the words of Azure ML's own trainer: the parameters of its fine-tuning components.

Whatever the trainer cannot do is refused by name. What it does in its own way although the recipe leaves it at the
default is told in words. Names and values are those of the component ``chat_completion_pipeline``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from pydantic import BaseModel

from tunesmith.errors import Problem, RecipeError
from tunesmith.executors.azureml.parameters import PARAMETERS
from tunesmith.recipe.executors.azure import AzureML
from tunesmith.recipe.schema import Recipe
from tunesmith.recipe.techniques import Full, Lora

# What the service's fine-tuning job tunes, by our tasks.
TASKS: Mapping[str, str] = {
    "text": "text_completion",
    "creative": "text_completion",
    "chat": "chat_completion",
    "function_calling": "chat_completion",
    "math": "chat_completion",
    "text_to_sql": "chat_completion",
    "classification": "text_classification",
    "ner": "token_classification",
    "translation": "text_translation",
    "qa": "question_answering",
}
# What the serverless form of the fine-tuning job lets choose.
_SERVERLESS = ("num_train_epochs", "per_device_train_batch_size", "learning_rate")
_OPENAI = ("n_epochs", "batch_size", "learning_rate_multiplier")
_OPTIMIZERS = {"adamw": "adamw_torch", "adafactor": "adafactor"}
# Parts of a recipe that the trainer has no counterpart of: they must stay at their defaults.
_NOT_THERE = {
    "data": ("split_seed", "new_tokens", "columns", "shape", "on_bad_rows"),
    "train": (
        "tokens_per_step",
        "rows_per_step",
        "learning_rate_multiplier",
        "tokens_per_micro_batch",
        "address",
        "offload",
        "sampler",
        "budget",
        "activation_checkpointing",
        "layout",
        "share_prefix",
        "checkpoint_every_steps",
        "neftune_alpha",
        "on_non_finite",
    ),
    "evaluate": (
        "metrics",
        "samples",
        "rows",
        "few_shot",
        "max_new_tokens",
        "probe",
        "multiple_choice",
        "learning_curve",
    ),
}
_NOT_OF_LORA = ("targets", "rank_stabilized", "rank_pattern", "alpha_pattern", "learning_rate_ratio", "initialization")
_BATCH_HINT = "the trainer counts rows: executor.hyperparameters.per_device_train_batch_size"


@dataclass(frozen=True)
class TrainerSettings:
    """What the trainer is told, with the types that its parameters have, and what it does in its own way."""

    values: Mapping[str, bool | int | float | str]
    warnings: tuple[str, ...]

    def as_text(self) -> dict[str, str]:
        """The values as text, which is all that the fine-tuning job takes."""
        return {name: as_text(value) for name, value in self.values.items()}


def as_text(value: bool | int | float | str) -> str:
    """A value as the trainer writes it: no exponents, true and false in small letters."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return format(Decimal(repr(value)), "f") if isinstance(value, float) else str(value)


def trainer_settings(recipe: Recipe, spec: AzureML) -> TrainerSettings:
    """A recipe as the trainer's parameters.

    Raises:
        RecipeError: ``recipe.azureml_trainer``, one problem for each thing that the trainer cannot do.
    """
    problems = [*_absent(recipe), *_bounded(recipe, spec)]
    warnings = [
        "Azure ML's own trainer measures by itself: there is no baseline, no few-shot system and no report of ours",
    ]
    values: dict[str, bool | int | float | str] = {}
    if spec.provider == "custom":
        values.update(_technique(recipe, problems, warnings))
        values.update(_train(recipe, spec, problems, warnings))
        if spec.kind == "finetuning" and not (spec.compute or spec.instance_types):
            left = [name for name in values if name not in _SERVERLESS]
            values = {name: value for name, value in values.items() if name in _SERVERLESS}
            warnings.append(f"without compute the service chooses itself, and is not told: {', '.join(left)}")
    else:
        values.update(_openai(recipe, problems, warnings))
    values.update(_further(spec, values, problems, warnings))
    if problems:
        raise RecipeError("Azure ML's own trainer cannot do what the recipe says", problems=problems)
    return TrainerSettings(values, tuple(warnings))


def _problem(place: str, message: str, value: object = None, hint: str | None = None) -> Problem:
    return Problem("recipe.azureml_trainer", message, place, None if value is None else str(value), hint)


def _absent(recipe: Recipe) -> Iterator[Problem]:
    """Keys that have no counterpart and are not at their defaults."""
    for part, keys in _NOT_THERE.items():
        section: BaseModel = getattr(recipe, part)
        for key in _changed(section, keys):
            hint = _BATCH_HINT if key.startswith(("tokens_per", "rows_per")) else "leave it out, or use kind: command"
            yield _problem(f"{part}.{key}", "the trainer has no such setting", getattr(section, key), hint)
    for key in ("fit", "export"):
        if _changed(recipe, (key,)):
            yield _problem(key, "the trainer has no such setting", hint="leave it out, or use kind: command")


def _changed(section: BaseModel, keys: tuple[str, ...]) -> list[str]:
    fields = type(section).model_fields
    return [key for key in keys if getattr(section, key) != fields[key].get_default(call_default_factory=True)]


def _bounded(recipe: Recipe, spec: AzureML) -> Iterator[Problem]:
    """What the trainer takes, but not every value of it."""
    if not isinstance(recipe.data.train, str):
        yield _problem("data.train", "the trainer takes one source", hint="join the files, or use kind: command")
    known = (
        TASKS if spec.kind == "finetuning" else {name: one for name, one in TASKS.items() if one == "chat_completion"}
    )
    if recipe.task not in known:
        yield _problem("task", "the trainer needs a task that it knows", recipe.task, f"one of {', '.join(known)}")
    objective = recipe.objective
    if objective != "auto" and (objective.name not in ("sft", "text") or getattr(objective, "label_smoothing", False)):
        yield _problem("objective", "the trainer has cross entropy alone", objective.name, "leave it out")
    if recipe.strategy not in ("auto", "single", "ddp", "zero2", "zero3"):
        yield _problem(
            "strategy", "the trainer has DeepSpeed's stages 2 and 3 alone", recipe.strategy, "zero2 or zero3"
        )
    if spec.kind == "finetuning" and (recipe.train.devices > 1 or recipe.train.nodes > 1):
        yield _problem("train.devices", "the service chooses how many", recipe.train.devices, "executor.instance_types")


def _technique(
    recipe: Recipe, problems: list[Problem], warnings: list[str]
) -> Iterator[tuple[str, bool | int | float | str]]:
    technique = recipe.technique
    if isinstance(technique, Full):
        yield "apply_lora", "false"
        return
    if not isinstance(technique, Lora):
        problems.append(_problem("technique", "the trainer has lora and full alone", technique.name))
        return
    problems.extend(
        _problem(f"technique.{key}", "the trainer chooses this itself", hint="leave it out")
        for key in _changed(technique, _NOT_OF_LORA)
    )
    if technique.alpha != int(technique.alpha):
        problems.append(_problem("technique.alpha", "must be a whole number for this trainer", technique.alpha))
    warnings.append("the trainer chooses itself which modules get an adapter, not technique.targets")
    yield "apply_lora", "true"
    yield "lora_r", technique.rank
    yield "lora_alpha", int(technique.alpha)
    yield "lora_dropout", technique.dropout


def _train(
    recipe: Recipe, spec: AzureML, problems: list[Problem], warnings: list[str]
) -> Iterator[tuple[str, bool | int | float | str]]:
    train = recipe.train
    by_itself = [key for key in ("epochs", "learning_rate", "max_length", "precision") if getattr(train, key) == "auto"]
    if by_itself:
        warnings.append(f"left to the trainer's own defaults: {', '.join(f'train.{key}' for key in by_itself)}")
    if train.epochs != "auto":
        if train.epochs != int(train.epochs):
            problems.append(_problem("train.epochs", "the trainer takes whole epochs", train.epochs))
        yield "num_train_epochs", int(train.epochs)
    if train.learning_rate != "auto":
        yield "learning_rate", train.learning_rate
    if train.optimizer not in _OPTIMIZERS:
        problems.append(_problem("train.optimizer", "the trainer has others", train.optimizer, "adamw or adafactor"))
    yield "optim", _OPTIMIZERS.get(train.optimizer, "")
    if train.max_length != "auto":
        warnings.append("the trainer cuts rows longer than train.max_length instead of refusing them")
        yield "max_seq_length", train.max_length
    if train.precision == "bfloat16":
        problems.append(
            _problem("train.precision", "the trainer has float32, and half precision of its own", "bfloat16")
        )
    elif train.precision == "float32":
        yield "precision", "32"
    yield from _schedule(recipe, spec, problems, warnings)
    yield from _course(recipe, spec)
    yield "weight_decay", train.weight_decay
    if train.clip is None:
        problems.append(_problem("train.clip", "the trainer always has a limit", "null", "leave it out"))
    else:
        yield "max_grad_norm", train.clip


def _course(recipe: Recipe, spec: AzureML) -> Iterator[tuple[str, bool | int | float | str]]:
    """Seed, checkpoints, measuring along the way, and who works for it."""
    train = recipe.train
    yield "seed", train.seed
    yield "save_total_limit", train.keep_checkpoints
    if train.validate_every_steps != "auto":
        yield "evaluation_strategy", "steps"
        yield "eval_steps", train.validate_every_steps
    if train.patience is not None:
        yield "apply_early_stopping", "true"
        yield "early_stopping_patience", train.patience
    if recipe.strategy in ("zero2", "zero3"):
        yield "apply_deepspeed", "true"
        yield "deepspeed_stage", recipe.strategy.removeprefix("zero")
    if spec.kind == "registry-pipeline":
        yield "number_of_gpu_to_use_finetuning", train.devices
        yield "num_nodes_finetune", train.nodes


def _schedule(
    recipe: Recipe, spec: AzureML, problems: list[Problem], warnings: list[str]
) -> Iterator[tuple[str, bool | int | float | str]]:
    train = recipe.train
    warms_up = "warmup_steps" in spec.hyperparameters
    if _changed(train, ("warmup",)) and train.warmup > 0:
        hint = "executor.hyperparameters.warmup_steps"
        problems.append(_problem("train.warmup", "the trainer counts steps, not a share", train.warmup, hint))
    elif train.warmup > 0 and not warms_up:
        warnings.append("the learning rate does not warm up: the trainer counts steps (hyperparameters.warmup_steps)")
    constant = "constant_with_warmup" if warms_up else "constant"
    yield "lr_scheduler_type", constant if train.schedule == "constant" else train.schedule


def _openai(recipe: Recipe, problems: list[Problem], warnings: list[str]) -> Mapping[str, int]:
    """OpenAI's models have three settings, of which one is a recipe's."""
    train = recipe.train
    if train.learning_rate != "auto":
        hint = "executor.hyperparameters.learning_rate_multiplier"
        problems.append(_problem("train.learning_rate", "the service takes a factor", train.learning_rate, hint))
    if not isinstance(recipe.technique, Lora) or recipe.technique != Lora():
        problems.append(_problem("technique", "the service chooses this itself", recipe.technique.name, "leave it out"))
    taken = {"epochs", "learning_rate", "devices", "nodes", "seed", "warmup", "schedule", "keep_checkpoints", "clip"}
    left = tuple(key for key in type(train).model_fields if key not in {*taken, *_NOT_THERE["train"]})
    problems.extend(
        _problem(f"train.{key}", "the service chooses this itself", hint="leave it out")
        for key in _changed(train, (*left, "seed", "warmup", "schedule", "keep_checkpoints", "clip"))
    )
    warnings.append("of the recipe the service is told the epochs alone; it chooses all else itself")
    if train.epochs == "auto":
        return {}
    if train.epochs != int(train.epochs):
        problems.append(_problem("train.epochs", "the service takes whole epochs", train.epochs))
    return {"n_epochs": int(train.epochs)}


def _further(
    spec: AzureML, values: Mapping[str, object], problems: list[Problem], warnings: list[str]
) -> dict[str, bool | int | float | str]:
    """Settings that only the executor has words for."""
    # Switches of the trainer are words.
    found = {name: as_text(value) if isinstance(value, bool) else value for name, value in spec.hyperparameters.items()}
    runtime = found.pop("apply_ort", None)
    if runtime is not None and as_text(runtime).lower() == "true":
        warnings.append("apply_ort is left out: ONNX Runtime's training is no longer developed")
    for name in found:
        place = f"executor.hyperparameters.{name}"
        if name in values:
            problems.append(_problem(place, "the recipe says this already", values[name]))
        elif spec.provider == "azure_open_ai" and name not in _OPENAI:
            problems.append(_problem(place, "the service has no such setting", hint=f"one of {', '.join(_OPENAI)}"))
        elif spec.kind == "registry-pipeline" and name not in PARAMETERS:
            problems.append(_problem(place, "the pipeline has no such parameter"))
    return found
