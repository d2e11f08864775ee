"""What a refusal is, and what it may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tunesmith.recipe.facts import DataFacts, HostFacts, ModelFacts
from tunesmith.recipe.schema import Recipe


@dataclass(frozen=True)
class Facts:
    """All that a refusal may look at."""

    data: DataFacts
    model: ModelFacts
    host: HostFacts


@dataclass(frozen=True)
class Refusal:
    """One combination that cannot work: its code, the key it is about, why, and what to do instead."""

    code: str
    place: str
    reason: str
    hint: str
    applies: Callable[[Recipe, Facts], bool]
