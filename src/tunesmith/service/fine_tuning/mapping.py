"""A request as a recipe.

What OpenAI's words become:

- ``n_epochs`` is ``train.epochs``.
- ``batch_size`` counts rows; it is ``train.rows_per_step``. Steps are cut at tokens, so that a step has so many rows on
  average and an epoch has as many steps as if each had exactly so many.
- ``learning_rate_multiplier`` is ``train.learning_rate_multiplier``: it multiplies the rate that is chosen for the
  model's size and the technique; ``auto`` is 1.
- ``beta`` is the objective's; ``auto`` is 0.1.
- Method ``supervised`` leaves the objective to the rows and the model, ``dpo`` names it.
- ``seed`` is ``train.seed``, and the seed of the split unless ``split_seed`` is given.
- Without a validation file a tenth of the rows is held out.

Where data lies is filled in by the dispatcher, which has the files: :data:`TRAINING` and :data:`VALIDATION` stand for
them until then, and the model is named by what the service calls it.
"""

from __future__ import annotations

from typing import Any

from tunesmith.errors import RecipeError
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.schema import Recipe
from tunesmith.service.errors import ApiError
from tunesmith.service.fine_tuning.options import refused, work_in
from tunesmith.service.fine_tuning.schema import CreateJob, DpoHyperparameters
from tunesmith.service.settings import Settings

TRAINING, VALIDATION = "training", "validation"
# Of a run of the service so many stay, since each may be asked by its name.
KEPT_CHECKPOINTS = 3


def plain_recipe(wanted: CreateJob, seed: int) -> dict[str, Any]:
    """The recipe of a request as plain content, without where things lie.

    Raises:
        ApiError: 400: an option is unknown, or two contradict each other.
    """
    numbers = wanted.numbers
    train: dict[str, Any] = {"seed": seed, "keep_checkpoints": KEPT_CHECKPOINTS}
    if numbers.n_epochs != "auto":
        train["epochs"] = numbers.n_epochs
    if numbers.batch_size != "auto":
        train["rows_per_step"] = numbers.batch_size
    if numbers.learning_rate_multiplier != "auto":
        train["learning_rate_multiplier"] = numbers.learning_rate_multiplier
    plain: dict[str, Any] = {"model": wanted.model, "data": {"train": TRAINING}, "train": train}
    if wanted.kind == "dpo":
        plain["objective"] = {"name": "dpo"}
        if isinstance(numbers, DpoHyperparameters) and numbers.beta != "auto":
            plain["objective"]["beta"] = numbers.beta
    if wanted.validation_file is not None:
        if "validation" in wanted.tunesmith:
            raise ApiError(
                400,
                "rows are held out, or come from validation_file: leave one of the two out",
                code="invalid_value",
                param="tunesmith.validation",
            )
        plain["data"]["validation"] = VALIDATION
    work_in(plain, wanted.tunesmith)
    return plain


def whole_recipe(plain: dict[str, Any], settings: Settings, model: str, train: str, validation: str | None) -> Recipe:
    """The recipe as the worker gets it.

    Args:
        plain: As :func:`plain_recipe` made it.
        settings: They name the executor.
        model: A catalog id, a folder that the operator named, or a version of the registry.
        train: The file of training rows.
        validation: That of validation rows, where there is one.

    Raises:
        ApiError: 400 with the problem's code, and the request's parameter that it is about.
    """
    data = {**plain["data"], "train": train}
    if validation is not None:
        data["validation"] = validation
    content = {**plain, "model": model, "data": data, "executor": settings.executor}
    try:
        return parse_recipe(content, "the request")
    except RecipeError as error:
        raise refused(error) from error


def usual_epochs(rows: int) -> int:
    """Epochs for so many rows: three, more for few rows and fewer for many."""
    usual, fewest_seen, most_seen, most = 3, 100, 25_000, 25
    if rows * usual < fewest_seen:
        return max(1, min(most, fewest_seen // max(1, rows)))
    return max(1, most_seen // rows) if rows * usual > most_seen else usual
