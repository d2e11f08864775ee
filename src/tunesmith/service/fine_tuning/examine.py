"""A request looked at together with its files: what is wrong, what ``auto`` stands for, what the job would cost.

Rows are read here, and tokens are guessed from letters; nothing of it needs the model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tunesmith.errors import ModelError, RecipeError
from tunesmith.jobs.planning import Known, guess_facts, this_machine
from tunesmith.planner.shape import ModelShape, config_of, shape_of_config, shape_of_entry
from tunesmith.recipe.facts import HostFacts
from tunesmith.recipe.refusal import Facts
from tunesmith.recipe.refusals import check
from tunesmith.recipe.resolve import resolve
from tunesmith.recipe.resolved import Resolved
from tunesmith.recipe.schema import Recipe
from tunesmith.runs.atomic import read_json
from tunesmith.service.context import Context
from tunesmith.service.fine_tuning.mapping import usual_epochs, whole_recipe
from tunesmith.service.fine_tuning.options import refused
from tunesmith.service.shared.metering import price
from tunesmith.service.shared.naming import Offer, offered
from tunesmith.service.shared.training_rows import Method, TrainingReport, check_training_file

_MILLION = 1_000_000


@dataclass(frozen=True)
class Files:
    """Training and validation rows as files of this machine."""

    training: Path
    validation: Path | None = None


@dataclass(frozen=True)
class Question:
    """What is asked for, without its files.

    Attributes:
        base: The base model, by the name that the service offers it under.
        method: ``supervised`` or ``dpo``.
        plain: The recipe's plain content.
        numbers: Hyperparameters as they were asked for.
    """

    base: str
    method: str
    plain: Mapping[str, Any]
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class Examined:
    """What was found.

    Attributes:
        plain: The recipe's plain content, with what was resolved.
        recipe: The recipe over the files as they lie here.
        hyperparameters: As they are told: numbers where they are known, else ``auto``.
        known: Rows and model in numbers.
        resolved: Every value, as this machine would choose it.
        reports: What each file was found to be, by parameter.
    """

    plain: dict[str, Any]
    recipe: Recipe
    hyperparameters: dict[str, Any]
    known: Known
    resolved: Resolved
    reports: Mapping[str, TrainingReport]

    @property
    def steps(self) -> int:
        """Optimizer steps, about."""
        data = self.known.data
        return max(1, round(self.resolved.epochs * data.tokens / self.resolved.tokens_per_step))

    @property
    def tokens(self) -> int:
        """Tokens of all rows that are seen; they are what is paid for."""
        return round(self.resolved.epochs * self.known.data.tokens)


def examine(context: Context, question: Question, files: Files) -> Examined:
    """Look at what was asked for and at its files.

    Args:
        context: The service.
        question: What was asked for.
        files: Where the rows are.

    Raises:
        ModelError: ``model_not_found``: the base is offered no more.
        ApiError: 400 ``invalid_training_file`` with lines; or the recipe's own code with the parameter.
    """
    offer = offered(context).get(question.base)
    if offer is None:
        raise ModelError("the service offers this model no more", code="model_not_found", value=question.base)
    shape, config = model_of(offer)
    recipe = whole_recipe(
        dict(question.plain),
        context.settings,
        offer.name if offer.folder is None else str(offer.folder),
        str(files.training),
        None if files.validation is None else str(files.validation),
    )
    reports = _reports(recipe, question.method, files)
    training = reports["training_file"]
    hyperparameters = dict(question.numbers)
    if hyperparameters["n_epochs"] == "auto" and recipe.train.budget is None:
        hyperparameters["n_epochs"] = usual_epochs(training.examples)
        train = recipe.train.model_copy(update={"epochs": float(hyperparameters["n_epochs"])})
        recipe = recipe.model_copy(update={"train": train})
    for key, value in (("learning_rate_multiplier", 1.0), ("beta", 0.1)):
        if hyperparameters.get(key) == "auto":
            hyperparameters[key] = value
    host = _host(context)
    try:
        known = guess_facts(recipe, shape, has_chat_template=offer.chat_template is not False, config=config)
        check(recipe, Facts(known.data, known.model, host))
    except RecipeError as error:
        raise refused(error) from error
    content = {key: dict(value) if isinstance(value, Mapping) else value for key, value in question.plain.items()}
    if recipe.train.epochs != "auto":
        content["train"]["epochs"] = recipe.train.epochs
    return Examined(content, recipe, hyperparameters, known, resolve(recipe, known.data, known.model, host), reports)


def model_of(offer: Offer) -> tuple[ModelShape, Mapping[str, Any]]:
    """A base model in numbers, and its config.json or what stands for it.

    Raises:
        ModelError: No plan is known for its architecture.
    """
    if offer.entry is not None:
        shape = shape_of_entry(offer.entry)
        return shape, config_of(shape)
    assert offer.folder is not None
    config: dict[str, Any] = read_json(offer.folder / "config.json")
    return shape_of_config(config, offer.name), config


def cost_of(context: Context, base: str, tokens: int) -> float:
    """The price of so many trained tokens, in the service's currency."""
    return price(context, base, "trained_tokens") * tokens / _MILLION


def _reports(recipe: Recipe, method: str, files: Files) -> dict[str, TrainingReport]:
    columns = None if recipe.data.columns == "auto" else dict(recipe.data.columns)
    shape = None if recipe.data.shape == "auto" else recipe.data.shape
    kind: Method = "dpo" if method == "dpo" else "supervised"
    found = {"training_file": check_training_file(files.training, kind, columns=columns, shape=shape)}
    if files.validation is not None:
        found["validation_file"] = check_training_file(
            files.validation, kind, least_examples=1, columns=columns, shape=shape
        )
    for param, report in found.items():
        report.require_usable(param)
    return found


def _host(context: Context) -> HostFacts:
    """The machine that a job is checked for: this one, or one that lacks nothing where others work."""
    if context.settings.shares_runs:
        return HostFacts(1, 2**40, device="cuda", fast_dtype="bfloat16", device_memory_bytes=2**40)
    return this_machine() or HostFacts(os.cpu_count() or 1, psutil.virtual_memory().total)
