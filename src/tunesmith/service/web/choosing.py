"""What a page offers to choose from: the newest of a long list, and always the one that its address names."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tunesmith.service.web.asking import OWN, Api

# A select with more is none that anybody can choose from.
MOST_LISTED = 100
_MOST_READ = 10_000


@dataclass(frozen=True)
class Choices:
    """What can be chosen on a page.

    Attributes:
        rows: As the API tells them, the newest first; one that was asked for stands before all if it is an older one.
        others: How many there are beside them.
        is_more: Whether there are still more than that.
        missing: What was asked for and is not there; empty where nothing is missing.
    """

    rows: list[dict[str, Any]]
    others: int
    is_more: bool
    missing: str


async def files_to_choose(
    api: Api, chosen: str, *, purpose: str | None = None, without: Container[str] = ()
) -> Choices:
    """Files of a project.

    Args:
        api: The API as the reader sees it.
        chosen: The file that the page's address names; an empty text for none.
        purpose: What they are for; None for whatever it is.
        without: Purposes whose files are of no use here.
    """
    found = await api.get("/v1/files", purpose=purpose, limit=_MOST_READ)
    fit = [one for one in found["data"] if one["purpose"] not in without]
    named = await _named(api, f"/v1/files/{quote(chosen, safe='')}", chosen, fit)
    if named is not None and (named["purpose"] in without or purpose not in (None, named["purpose"])):
        named = None
    return _choices(fit, chosen, named, is_more=found["has_more"])


async def tuned_to_choose(api: Api, chosen: str, bases: Container[str]) -> Choices:
    """Tuned models of a project; ``chosen`` may be one of the bases, which are listed beside them."""
    found = await api.get(f"{OWN}/registry", limit=MOST_LISTED)
    chosen = "" if chosen in bases else chosen
    named = await _named(api, f"{OWN}/registry/{quote(chosen, safe='')}", chosen, found["data"])
    return _choices(found["data"], chosen, named, is_more=found["has_more"])


async def _named(api: Api, path: str, chosen: str, known: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not chosen:
        return None
    listed = next((one for one in known if one["id"] == chosen), None)
    return listed or await api.find(path)


def _choices(fit: list[dict[str, Any]], chosen: str, named: dict[str, Any] | None, *, is_more: bool) -> Choices:
    rows = fit[:MOST_LISTED]
    others = len(fit) - len(rows)
    if named is not None and named not in rows:
        others -= named in fit
        rows = [named, *rows]
    return Choices(rows, others, is_more, chosen if named is None else "")
