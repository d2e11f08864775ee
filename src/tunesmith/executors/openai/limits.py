"""What of a recipe a service with OpenAI's contract can honour: its job, what is only told, and what is refused.

Every key of the recipe is in one of the tables here; a test sees to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from tunesmith.errors import Problem, RecipeError
from tunesmith.recipe.objectives import Dpo, Sft
from tunesmith.recipe.schema import Recipe

MOST_SEED = 2**31 - 1
MOST_EPOCHS = 50
MOST_BETA = 2.0

Method = Literal["supervised", "dpo"]

# Honoured, or looked at below.
HONOURED = frozenset(
    {
        "data.train",
        "data.validation",
        "data.split_seed",
        "data.columns",
        "data.shape",
        "data.on_bad_rows",
        "task",
        "objective",
        "train.epochs",
        "train.seed",
        "executor",
    }
)
_CHOOSES = "the service chooses this itself; leave it at its default"
# They decide what is learned: whoever sets one would not get what was asked for.
REFUSED: Mapping[str, str] = {
    "technique": "the service chooses which weights train; leave technique out",
    "export": "the service keeps the weights, so that nothing can be exported",
    "data.new_tokens": "the service has a vocabulary of its own",
    "train.learning_rate": "set executor.learning_rate_multiplier",
    "train.tokens_per_step": "set executor.batch_size, which counts rows",
    "train.rows_per_step": "set executor.batch_size",
    "train.learning_rate_multiplier": "set executor.learning_rate_multiplier",
    "train.optimizer": _CHOOSES,
    "train.sampler": _CHOOSES,
    "train.max_length": "the service cuts long rows by limits of its own",
    "train.budget": "the service has no limit of time or tokens; set train.epochs",
    "train.schedule": _CHOOSES,
    "train.warmup": _CHOOSES,
    "train.weight_decay": _CHOOSES,
    "train.clip": _CHOOSES,
    "train.neftune_alpha": _CHOOSES,
    "train.patience": _CHOOSES,
    "evaluate.multiple_choice": "the service measures nothing but the loss",
    "evaluate.learning_curve": "the service trains once",
}
# They decide how a machine of ours works, or what is measured here: the job is the same without them.
PASSED_OVER = frozenset(
    {
        "model",
        "data.on_long_rows",
        "train.devices",
        "train.nodes",
        "train.address",
        "train.offload",
        "train.tokens_per_micro_batch",
        "train.precision",
        "train.activation_checkpointing",
        "train.layout",
        "train.share_prefix",
        "train.checkpoint_every_steps",
        "train.keep_checkpoints",
        "train.validate_every_steps",
        "train.on_non_finite",
        "strategy",
        "fit",
        "evaluate.metrics",
        "evaluate.samples",
        "evaluate.rows",
        "evaluate.few_shot",
        "evaluate.max_new_tokens",
        "evaluate.probe",
    }
)


@dataclass(frozen=True)
class Allowed:
    """What of a recipe becomes of the job: its method with hyperparameters, and what people should know."""

    method: Method
    hyperparameters: Mapping[str, Any]
    warnings: tuple[str, ...]

    @property
    def field(self) -> dict[str, Any]:
        """The request's field ``method``."""
        return {"type": self.method, self.method: {"hyperparameters": dict(self.hyperparameters)}}


def allowed(recipe: Recipe, *, shape: str, task: str) -> Allowed:
    """Fit a recipe to the service.

    Args:
        recipe: Its executor is the variant ``openai``.
        shape: Of the rows; see :data:`tunesmith.formats.examples.SHAPES`.
        task: Name of the task.

    Raises:
        RecipeError: With one problem for each key that the service cannot honour.
    """
    problems = [
        Problem("recipe.openai", "the service cannot do this", place=key, value=_shown(value), hint=REFUSED[key])
        for key, value in changed(recipe)
        if key in REFUSED
    ]
    method, wrong = _method(recipe, shape, task)
    problems += [*wrong, *_numbers(recipe)]
    if problems:
        raise RecipeError("the service cannot do all that the recipe asks for", problems=problems)
    spec: Any = recipe.executor
    numbers: dict[str, Any] = {
        "n_epochs": "auto" if recipe.train.epochs == "auto" else int(recipe.train.epochs),
        "batch_size": spec.batch_size,
        "learning_rate_multiplier": spec.learning_rate_multiplier,
    }
    if method == "dpo":
        objective = Dpo() if recipe.objective == "auto" else recipe.objective
        assert isinstance(objective, Dpo)
        numbers["beta"] = objective.beta
    over = [key for key, _ in changed(recipe) if key in PASSED_OVER and key != "model"]
    warnings = [f"the service does not know {', '.join(over)}: passed over"] if over else []
    if recipe.model != spec.model:
        warnings.append(f"the service tunes {spec.model} (executor.model), not {recipe.model} (model)")
    return Allowed(method, numbers, tuple(warnings))


def changed(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """The keys of a recipe whose values are not their defaults, and the two that have none."""
    plain = Recipe.model_validate({"model": "model", "data": {"train": "train"}})
    for name in Recipe.model_fields:
        mine, usual = getattr(recipe, name), getattr(plain, name)
        if name in ("data", "train", "evaluate"):
            for inner in type(mine).model_fields:
                if getattr(mine, inner) != getattr(usual, inner):
                    yield f"{name}.{inner}", getattr(mine, inner)
        elif mine != usual:
            yield name, mine


def _method(recipe: Recipe, shape: str, task: str) -> tuple[Method, list[Problem]]:
    """The service's method, and what stands in the way of it."""
    objective, value = recipe.objective, _shown(recipe.objective)
    if task == "text" or shape == "text":
        return "supervised", [_wrong("task", "plain text holds no answer to learn", task, "give conversations")]
    if shape == "rated":
        hint = "give rows with columns chosen and rejected"
        return "dpo", [_wrong("objective", "the service compares two answers, and these rows have one", value, hint)]
    method: Method = "dpo" if task == "preference" else "supervised"
    fitting = Dpo if method == "dpo" else Sft
    if objective == "auto":
        return method, []
    if not isinstance(objective, fitting):
        hint = f"for these rows it has {'dpo' if method == 'dpo' else 'sft'}; leave objective out"
        return method, [_wrong("objective", "the service has no such objective", value, hint)]
    problems = []
    if objective.label_smoothing:
        smoothing = str(objective.label_smoothing)
        problems.append(_wrong("objective.label_smoothing", "the service has no such thing", smoothing, "leave it out"))
    if isinstance(objective, Dpo) and objective.loss != "sigmoid":
        problems.append(_wrong("objective.loss", "the service has one loss for pairs", objective.loss, "use sigmoid"))
    if isinstance(objective, Dpo) and objective.beta > MOST_BETA:
        beta = str(objective.beta)
        problems.append(_wrong("objective.beta", "greater than the service takes", beta, f"at most {MOST_BETA:g}"))
    return method, problems


def _numbers(recipe: Recipe) -> Iterator[Problem]:
    epochs, seed = recipe.train.epochs, recipe.train.seed
    if epochs != "auto" and not (float(epochs).is_integer() and 1 <= epochs <= MOST_EPOCHS):
        hint = f"a whole number from 1 to {MOST_EPOCHS}"
        yield _wrong("train.epochs", "the service trains whole epochs", f"{epochs:g}", hint)
    if seed > MOST_SEED:
        yield _wrong("train.seed", "greater than the service takes", str(seed), f"at most {MOST_SEED}")


def _wrong(place: str, message: str, value: str, hint: str) -> Problem:
    return Problem("recipe.openai", message, place=place, value=value, hint=hint)


def _shown(value: Any) -> str:
    if isinstance(value, BaseModel):
        settings = value.model_dump(exclude_defaults=True)
        return str(getattr(value, "name", "")) + (f" {settings}" if settings else "")
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return str(value)
