"""Versions of the registry that the service lets go of; their files go when garbage is collected next."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import PurePath

from tunesmith.errors import ModelError, TunesmithError
from tunesmith.registry.references import drop_reference, read_references, remove_version
from tunesmith.registry.versions import read_versions
from tunesmith.service.context import Context
from tunesmith.service.shared.references import OF_DEPLOYMENTS
from tunesmith.storage.address import open_store

_log = logging.getLogger(__name__)
# Engines say so of themselves while they have an adapter loaded; one that was killed cannot take it back. Nor can
# deployments of other projects answer with a model whose last name is gone.
_OF_ENGINES = "tunesmith serve "


def let_go(context: Context, name: str, number: int, gone_runs: Collection[str] = ()) -> None:
    """Take a version out of use; one that others were made from stays for them, and the log says so.

    Args:
        context: The service.
        name: Of the version.
        number: Its number.
        gone_runs: Names of runs that are removed as well, and so use it no more.
    """
    store = open_store(context.settings.registry)
    try:
        for one in read_references(store, name, number):
            is_idle = one.kind == "deployment" and one.who.startswith((_OF_ENGINES, OF_DEPLOYMENTS))
            if is_idle or (one.kind == "run" and PurePath(one.who).name in gone_runs):
                drop_reference(store, name, number, one.kind, one.who)
        remove_version(store, name, number, with_labels=True)
    except ModelError as error:
        _log.info("the version %s:%d stays: %s", name, number, "; ".join(error.lines()))
    except TunesmithError as error:
        # Its names are gone already; the version only takes room.
        _log.warning("the version %s:%d stays: %s", name, number, error.message)


def let_go_of_jobs(context: Context, jobs: Collection[str]) -> None:
    """Take every version of these jobs out of use, whatever names it has or has lost.

    Raises:
        ModelError: A record cannot be read.
        NetworkError: The storage does not answer.
    """
    store = open_store(context.settings.registry)
    # The youngest first: it may stand on an older one.
    for job_id in sorted(jobs, reverse=True):
        for version in reversed(read_versions(store, job_id)):
            let_go(context, version.name, version.number, jobs)
