"""Files of tuned models that no version needs any more go, and copies of them on this machine."""

from __future__ import annotations

import logging

from tunesmith.catalog.cache import cache_folder
from tunesmith.errors import RunError
from tunesmith.registry.collect import collect
from tunesmith.service.context import Context
from tunesmith.service.shared.chores import Chore
from tunesmith.storage.address import open_store

_log = logging.getLogger(__name__)


def collect_garbage(context: Context) -> None:
    """Remove what no version needs. Where another dispatcher is at it, the next time is soon enough.

    Raises:
        OutputError, NetworkError: The storage cannot be read or written.
        RunError: ``registry.slow``: it took too long.
        ModelError: A record cannot be read; then nothing may be called garbage.
    """
    try:
        collect(open_store(context.settings.registry), cache_folder() / "registry")
    except RunError as error:
        if error.code != "registry.collecting":
            raise
        _log.info("the registry is not looked through now: %s", error.message)


CHORES: tuple[Chore, ...] = (Chore("registry.collect", 3600.0, collect_garbage),)
