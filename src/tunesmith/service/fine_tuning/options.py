"""Options of our own in a request: ``extra_body={"tunesmith": {"technique": "dora", "rank": 8}}``.

Each is a key of the recipe under a shorter name; the recipe checks its value. What would reach beyond the project (a
folder, a hub, another machine) is no option.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from tunesmith.errors import RecipeError
from tunesmith.service.errors import ApiError, words_of

# Only an estimate is wanted, and no job.
DRY_RUN = "dry_run"
# Counted by the model's own tokenizer, which takes seconds, in place of a guess from letters.
EXACT = "exact"
# The first rows are wanted as that tokenizer cuts them; it counts exactly then as well.
PREVIEW = "preview"
KEYS: Mapping[str, str] = {
    "task": "task",
    "objective": "objective",
    "technique": "technique",
    "rank": "technique.rank",
    "alpha": "technique.alpha",
    "dropout": "technique.dropout",
    "targets": "technique.targets",
    "rank_stabilized": "technique.rank_stabilized",
    "initialization": "technique.initialization",
    "quantization": "technique.quantization",
    "layers": "technique.layers",
    "settings": "technique.settings",
    "validation": "data.validation",
    "split_seed": "data.split_seed",
    "columns": "data.columns",
    "shape": "data.shape",
    "on_long_rows": "data.on_long_rows",
    "max_length": "train.max_length",
    "budget": "train.budget",
    "learning_rate": "train.learning_rate",
    "optimizer": "train.optimizer",
    "schedule": "train.schedule",
    "warmup": "train.warmup",
    "weight_decay": "train.weight_decay",
    "clip": "train.clip",
    "precision": "train.precision",
    "neftune_alpha": "train.neftune_alpha",
    "sampler": "train.sampler",
    "patience": "train.patience",
    "checkpoint_every_steps": "train.checkpoint_every_steps",
    "keep_checkpoints": "train.keep_checkpoints",
    "validate_every_steps": "train.validate_every_steps",
    "metrics": "evaluate.metrics",
    "samples": "evaluate.samples",
    "evaluation_rows": "evaluate.rows",
    "few_shot": "evaluate.few_shot",
    "max_new_tokens": "evaluate.max_new_tokens",
}
_FLAGS = (DRY_RUN, EXACT, PREVIEW)
_OF_REQUEST = {
    "train.epochs": "hyperparameters.n_epochs",
    "train.rows_per_step": "hyperparameters.batch_size",
    "train.learning_rate_multiplier": "hyperparameters.learning_rate_multiplier",
    "objective.beta": "method.dpo.hyperparameters.beta",
    "train.seed": "seed",
    "model": "model",
    "data.train": "training_file",
}


def flag(options: Mapping[str, Any], name: str) -> bool:
    """A yes or no of the options.

    Raises:
        ApiError: 400: it is something else.
    """
    value = options.get(name, False)
    if not isinstance(value, bool):
        raise ApiError(400, f"{name} is true or false", code="invalid_value", param=f"tunesmith.{name}")
    return value


def work_in(plain: dict[str, Any], options: Mapping[str, Any]) -> None:
    """Put options into a recipe's plain content.

    Raises:
        ApiError: 400 ``unknown_option``, or ``invalid_value`` where an option has no place beside another one.
    """
    # A technique's name comes before its settings.
    for name in sorted(options, key=lambda one: KEYS.get(one, one).count(".")):
        if name in _FLAGS:
            continue
        if name not in KEYS:
            near = difflib.get_close_matches(name, [*KEYS, *_FLAGS], n=1)
            hint = f"did you mean {near[0]}?" if near else f"options are {', '.join([*KEYS, *_FLAGS])}"
            raise ApiError(400, f"No such option: {name}; {hint}", code="unknown_option", param=f"tunesmith.{name}")
        if isinstance(options[name], str) and name == "validation":
            raise ApiError(
                400,
                "validation is a share of the training rows; name a file by validation_file",
                code="invalid_value",
                param="tunesmith.validation",
            )
        section, _, key = KEYS[name].partition(".")
        if not key:
            _merge(plain, section, options[name])
            continue
        inner = plain.setdefault(section, {})
        if isinstance(inner, str):
            inner = plain[section] = {"name": inner}
        # What is neither a name nor keys, the recipe has words for.
        if isinstance(inner, dict):
            inner[key] = options[name]


def _merge(plain: dict[str, Any], section: str, value: Any) -> None:
    known = plain.get(section)
    if (
        isinstance(known, Mapping)
        and isinstance(value, Mapping)
        and value.get("name", known.get("name")) == known.get("name")
    ):
        plain[section] = {**known, **value}
    elif isinstance(known, Mapping) and value != known.get("name"):
        raise ApiError(
            400,
            f"the method {known.get('name')} of the request decides the {section}",
            code="invalid_value",
            param=f"tunesmith.{section}",
        )
    else:
        plain[section] = dict(value) if isinstance(value, Mapping) else value


def refused(error: RecipeError) -> ApiError:
    """What a recipe's problems are in a request's own names."""
    first = error.problems[0] if error.problems else None
    place = first.place if first is not None else error.place
    return ApiError(400, words_of(error), code=first.code if first is not None else error.code, param=param_of(place))


def param_of(place: str | None) -> str | None:
    """The parameter of a request that a key of the recipe came from."""
    if place is None:
        return None
    by_key = {key: f"tunesmith.{name}" for name, key in KEYS.items()}
    return {**by_key, **_OF_REQUEST}.get(place)
