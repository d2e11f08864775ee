"""Engines as those see them who ask: which process answers for a model, and how to get it started.

Whoever needs one writes that it is wanted; the host (:mod:`tunesmith.service.engines.host`) starts it and writes where
it listens. Nobody but the host starts or ends processes.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Row, select, update
from starlette.concurrency import run_in_threadpool

from tunesmith.catalog.registered import find_registered
from tunesmith.errors import ModelError
from tunesmith.registry.names import looks_like_address
from tunesmith.registry.reading import part_of
from tunesmith.registry.record import Record
from tunesmith.service.context import Context
from tunesmith.service.db.tables.inference import ENGINES
from tunesmith.service.errors import ApiError
from tunesmith.service.ids import new_id
from tunesmith.service.shared.naming import Named
from tunesmith.storage.address import open_store

# An engine whose host was silent for so long is not there any more.
SILENT_SECONDS = 30.0
# What could not be loaded is tried again after so long.
FAILED_SECONDS = 60.0
# That an engine is used is written down so often at most.
TOUCH_SECONDS = 1.0
_FIRST_POLL_SECONDS, _LAST_POLL_SECONDS = 0.05, 0.5
_RETRY_SECONDS = 5


@dataclass(frozen=True)
class Place:
    """Where a model is answered: what the engine has loaded, and what the model is called there."""

    base: str
    model: str


@dataclass(frozen=True)
class Engine:
    """A process that answers.

    Attributes:
        base: What it has loaded.
        address: Such as ``http://127.0.0.1:4321``.
        token: Its bearer token.
    """

    base: str
    address: str
    token: str


def place_of(context: Context, named: Named) -> Place:
    """Where a model is answered: an adapter by the engine of its base, a model of its own weights by one of its own.

    The registry is asked, so this is for outside of transactions.

    Raises:
        ApiError: 404 ``model_not_found``: the registry has lost it, or the checkpoint was not made usable yet.
        NetworkError: The storage does not answer.
    """
    if named.address is None:
        return Place(named.base, named.base)
    try:
        stands_alone = _stands_alone(context.settings.registry, named.address)
    except ModelError as error:
        raise ApiError(
            404,
            f"The model `{named.name}` cannot be asked (yet): {error.message}",
            code="model_not_found",
            param="model",
        ) from error
    return Place(named.address if stands_alone else named.base, named.address)


def ensure_engine(context: Context, base: str, timeout_seconds: float) -> Engine:
    """The engine that has something loaded; it is started if need be, and waited for.

    Raises:
        ApiError: 503 ``model_loading``: not ready in time, with ``Retry-After``; 503 ``model_unavailable``: it could
            not be loaded.
    """
    end, pause = time.monotonic() + timeout_seconds, _FIRST_POLL_SECONDS
    while (found := look(context, base)) is None:
        if time.monotonic() > end:
            raise _loading(base)
        time.sleep(pause)
        pause = min(_LAST_POLL_SECONDS, 2 * pause)
    return found


async def await_engine(context: Context, base: str, timeout_seconds: float, lost: Engine | None = None) -> Engine:
    """As :func:`ensure_engine`, beside the loop.

    Args:
        context: The service.
        base: What it has loaded.
        timeout_seconds: How long it is waited for.
        lost: One that did not answer; another one is waited for.
    """
    end, pause = time.monotonic() + timeout_seconds, _FIRST_POLL_SECONDS
    while (found := await run_in_threadpool(look, context, base)) is None or found == lost:
        if time.monotonic() > end:
            raise _loading(base)
        await asyncio.sleep(pause)
        pause = min(_LAST_POLL_SECONDS, 2 * pause)
    return found


def look(context: Context, base: str) -> Engine | None:
    """The engine if it is ready; else it is wanted from now on. Also says that it is used.

    Raises:
        ApiError: 503 ``model_unavailable``: it could not be loaded a moment ago.
    """
    now = context.now()
    with context.database.read() as connection:
        row: Row[Any] | None = connection.execute(select(ENGINES).where(ENGINES.c.base == base)).first()
    if row is None:
        _want(context, base)
        return None
    if row.state == "failed" and now - (row.beat_at or 0) < FAILED_SECONDS:
        raise ApiError(
            503,
            "The model could not be loaded; the service's log says why",
            code="model_unavailable",
            headers={"Retry-After": str(int(FAILED_SECONDS))},
            retry=False,
        )
    if row.state in ("failed", "stopped"):
        _want_again(context, row)
        return None
    if now - row.used_at > TOUCH_SECONDS:
        touch(context, base)
    if row.state != "ready" or now - (row.beat_at or 0) > SILENT_SECONDS:
        return None
    return Engine(base, str(row.address), str(row.token))


def touch(context: Context, base: str) -> None:
    """Write down that an engine is used now."""
    with context.database.write() as connection:
        connection.execute(update(ENGINES).where(ENGINES.c.base == base).values(used_at=context.now()))


def _want(context: Context, base: str) -> None:
    now = context.now()
    row = {"id": new_id("engine_"), "base": base, "state": "wanted", "created_at": now, "used_at": now}
    with context.database.write() as connection:
        context.database.upsert(connection, ENGINES, row, ["base"])


def _want_again(context: Context, row: Row[Any]) -> None:
    """Only from the state that was seen: somebody may have been faster."""
    seen = (ENGINES.c.id == row.id) & (ENGINES.c.state == row.state)
    values = {"state": "wanted", "host": None, "reason": None, "used_at": context.now()}
    with context.database.write() as connection:
        connection.execute(update(ENGINES).where(seen).values(**values))


@lru_cache(maxsize=4096)
def _stands_alone(registry: str, address: str) -> bool:
    """Whether a version needs an engine of its own: it has all weights, or stands on those of another version.

    What a whole version is made of never changes, so that it is asked for once.
    """
    found = find_registered(address, open_store(registry))
    part = part_of(found.store, found.version, found.address.step)
    is_adapter = any(path.startswith("adapter/") for path in part.files)
    on_version = part.base is not None and looks_like_address(part.base.name)
    return not is_adapter or on_version or (isinstance(part, Record) and part.parent is not None)


def _loading(base: str) -> ApiError:
    return ApiError(
        503,
        f"The model {base} is being loaded; try again in a moment",
        code="model_loading",
        headers={"Retry-After": str(_RETRY_SECONDS)},
        retry=True,
    )
