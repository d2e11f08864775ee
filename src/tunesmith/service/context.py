"""What every part of a service works with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from tunesmith.service.auth.rates import Rates
from tunesmith.service.db.database import Database, open_database
from tunesmith.service.settings import Settings
from tunesmith.storage.address import open_store
from tunesmith.storage.store import Store


@dataclass(frozen=True)
class Context:
    """A service's settings, database and storage.

    Attributes:
        settings: What it was told.
        database: Its database.
        storage: Where bytes lie; paths in it are made here and never taken from a request.
        now: The time in seconds since 1970, UTC.
        rates: How often somebody asked lately.
    """

    settings: Settings
    database: Database
    storage: Store
    now: Callable[[], float] = field(default=time.time)
    rates: Rates = field(default_factory=Rates)

    @property
    def scratch(self) -> Path:
        """A folder of this machine for what is under way."""
        path = self.settings.data_folder / "scratch"
        path.mkdir(parents=True, exist_ok=True)
        return path


def open_context(settings: Settings) -> Context:
    """Open what the settings name.

    Raises:
        UsageError: There is no such database or storage.
    """
    return Context(settings, open_database(settings.database), open_store(settings.storage))


def context_of(request: Request) -> Context:
    """The context that a request is answered in."""
    found: Context = request.app.state.context
    return found


InContext = Annotated[Context, Depends(context_of)]
