"""Base models and accepted licences as answers have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row

from tunesmith.recipe.techniques import TechniqueSpec
from tunesmith.service.shared.naming import Offer


class Acceptance(BaseModel):
    """What somebody agrees to. ``licence`` is the one that they have read; another one is refused."""

    model_config = ConfigDict(extra="forbid")
    licence: Annotated[str, Field(max_length=255)] | None = None


@dataclass(frozen=True)
class Standing:
    """What a model is to a project: allowed by its list, and accepted."""

    is_allowed: bool
    accepted: Row[Any] | None


def model_answer(offer: Offer, standing: Standing, prices: Mapping[str, float], currency: str) -> dict[str, Any]:
    """A base model that the service offers."""
    return {
        "id": offer.name,
        "object": "catalog.model",
        **_described(offer),
        "chat_template": offer.chat_template,
        "licence_to_accept": offer.licence,
        "accepted": offer.licence is None or standing.accepted is not None,
        "allowed": standing.is_allowed,
        "prices": {"currency": currency, "per": 1_000_000, **prices},
    }


def acceptance_answer(row: Row[Any]) -> dict[str, Any]:
    """A licence that was accepted for a project."""
    return {
        "id": row.id,
        "object": "catalog.acceptance",
        "project_id": row.project_id,
        "model": row.model,
        "licence": row.licence,
        "accepted_by": row.accepted_by,
        "accepted_at": int(row.accepted_at),
    }


def _described(offer: Offer) -> dict[str, Any]:
    entry = offer.entry
    if entry is None:
        # An operator's own folder: whoever asks has no business with where it is.
        unknown = ("family", "parameters", "context_length", "licence", "licence_url", "architecture", "source")
        return {"name": offer.name, "kind": offer.kind, **dict.fromkeys(unknown), "techniques": list(_techniques())}
    return {
        "name": entry.name,
        "family": entry.family,
        "kind": entry.kind,
        "parameters": entry.parameters,
        "context_length": entry.context_length,
        "licence": entry.licence,
        "licence_url": entry.licence_url,
        "architecture": {
            "type": entry.architecture,
            "layers": entry.layers,
            "hidden_size": entry.hidden_size,
            "vocabulary_size": entry.vocabulary_size,
            "sliding_window": entry.sliding_window,
        },
        "source": next((one.name for one in entry.sources if one.kind == "hub"), None),
        "techniques": list(_techniques()),
    }


@cache
def _techniques() -> tuple[str, ...]:
    """Names of all techniques that a recipe knows."""
    return tuple(name for spec in get_args(TechniqueSpec) for name in get_args(spec.model_fields["name"].annotation))
