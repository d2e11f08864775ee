"""From the name of what an engine has loaded to folders of this machine, fetched where they are not here."""

from __future__ import annotations

import logging
from pathlib import Path

from tunesmith.catalog.cache import cache_folder, prepared_folder
from tunesmith.catalog.registered import bring_out_registered, find_registered, require_own_base
from tunesmith.errors import ModelError
from tunesmith.jobs.stages import pull
from tunesmith.registry.reading import base_in
from tunesmith.runs.events import Event
from tunesmith.service.context import Context
from tunesmith.service.shared.naming import offered
from tunesmith.storage.address import open_store
from tunesmith.wire.serving import SERVICE_KEY, ServedModel, Service

_log = logging.getLogger(__name__)


def service_of(context: Context, base: str, token: str) -> Service:
    """What an engine is told to serve. Takes as long as fetching the model does.

    Args:
        context: The service.
        base: The name of an offered model, or the address of a version that needs an engine of its own.
        token: The secret that lets in.

    Raises:
        ModelError: It is neither, or its files are not whole.
        NetworkError: It cannot be fetched.
    """
    if base in offered(context):
        # Versions that stand on this base are answered for when they are asked for.
        served = ServedModel(base, _folder_of(context, base))
        return Service((served,), {SERVICE_KEY: token}, registry=context.settings.registry)
    return Service((_version(context, base),), {SERVICE_KEY: token})


def _folder_of(context: Context, name: str) -> Path:
    """Where an offered model lies."""
    offer = offered(context)[name]
    if offer.folder is not None:
        if not (offer.folder / "config.json").is_file():
            raise ModelError("the folder holds no model", code="model.no_config", place=str(offer.folder))
        return offer.folder
    found = prepared_folder(name)
    return found if found is not None and (found / "config.json").is_file() else pull(name, _tell).folder


def _version(context: Context, address: str) -> ServedModel:
    found = find_registered(address, open_store(context.settings.registry))
    folder = bring_out_registered(found, cache_folder())
    if (folder / "model").is_dir():
        return ServedModel(address, folder / "model")
    if (folder / "base").is_dir():
        return ServedModel(address, folder / "base", folder / "adapter")
    facts = base_in(folder)
    if facts is None or facts.name not in offered(context):
        raise ModelError(
            "the base of this version is not offered any more",
            code="service.no_base",
            place=address,
            value=None if facts is None else facts.name,
        )
    base = _folder_of(context, facts.name)
    require_own_base(folder, base)
    return ServedModel(address, base, folder / "adapter")


def _tell(event: Event) -> None:
    _log.debug("fetching: %s %s", event.type, event.data)
