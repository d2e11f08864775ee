"""Trained parameters that no formula gives: counted in the model as it is built without weights, and remembered.

    question = question_of(shape, config, resolved, data)      # None where a formula knows
    found = remembered(question)                               # None where nobody counted it yet
    remember(question, found := count(question))
    make_plan(..., counted=found)

    CACHE/counts/KEY.json
      {"trained": 15040, "why": null}

Counting needs torch, so a worker does it (:mod:`tunesmith.pipeline.counting`). What it found holds for the same config,
technique with its settings, objective and number of classes, under the same versions of the libraries that build the
model. Some methods look at the weights themselves when they begin; then there is no number, and ``why`` says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson

from tunesmith.catalog.cache import cache_folder
from tunesmith.errors import OutputError
from tunesmith.planner.shape import ModelShape
from tunesmith.planner.sizes import classes
from tunesmith.planner.trained import Counted, trained_parameters
from tunesmith.recipe.facts import DataFacts
from tunesmith.recipe.objectives import HEADS
from tunesmith.recipe.resolved import Resolved
from tunesmith.recipe.techniques import TechniqueSpec
from tunesmith.runs.atomic import read_json, write_json

# Libraries that decide what is built and put on it.
_LIBRARIES = ("tunesmith", "peft", "transformers", "torch")
# Keys of a config.json that tell where it comes from.
_OF_NO_SHAPE = ("_name_or_path", "transformers_version")


@dataclass(frozen=True)
class Question:
    """What is to be counted: a technique on the model of a config.json, with a head of so many classes or none."""

    config: Mapping[str, Any]
    technique: TechniqueSpec
    objective: str
    classes: int

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "config": dict(self.config),
            "technique": self.technique.model_dump(mode="json"),
            "objective": self.objective,
            "classes": self.classes,
        }

    @property
    def key(self) -> str:
        """What the number depends on, as a name of a file."""
        asked = self.to_json()
        asked["config"] = {name: value for name, value in asked["config"].items() if name not in _OF_NO_SHAPE}
        deciding = {**asked, "versions": [_version(name) for name in _LIBRARIES]}
        return hashlib.sha256(orjson.dumps(deciding, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def question_of(
    shape: ModelShape, config: Mapping[str, Any] | None, resolved: Resolved, data: DataFacts
) -> Question | None:
    """What has to be counted for a plan of resolved values.

    Args:
        shape: The model.
        config: The content of its config.json, or what stands for it (:func:`tunesmith.planner.shape.config_of`);
            None where neither is known.
        resolved: The recipe, resolved.
        data: The data.

    Returns:
        None where a formula knows, or where there is no config to build the model from.
    """
    objective, number = resolved.objective.name, classes(resolved, data)
    known = trained_parameters(shape, resolved.technique, objective=objective, labels=number)
    if known is not None or config is None:
        return None
    return Question(config, resolved.technique, objective, number if objective in HEADS else 0)


def remembered(question: Question) -> Counted | None:
    """What was found before; None where nothing was, or where it cannot be read: counting again is cheap."""
    try:
        found = read_json(_path(question))
        trained, why = found["trained"], found["why"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_number = isinstance(trained, int) and not isinstance(trained, bool)
    return Counted(question.technique, trained, why) if is_number or (trained is None and why) else None


def remember(question: Question, found: Counted) -> None:
    """Keep what was found where that is possible; a cache that cannot be written only means to count again."""
    path = _path(question)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"trained": found.trained, "why": found.why})
    except (OSError, OutputError):
        return


def _path(question: Question) -> Path:
    return cache_folder() / "counts" / f"{question.key}.json"


def _version(library: str) -> str | None:
    """None where it is not installed: whoever plans for other machines may lack it."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None
