"""From an address to the store behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tunesmith.errors import UsageError, missing_extra
from tunesmith.storage.folder import LocalStore
from tunesmith.storage.objects import ObjectStore, no_answer
from tunesmith.storage.store import Store

_SCHEMES = {"s3": "storage", "az": "storage", "abfs": "storage", "abfss": "storage", "memory": None, "file": None}


def open_store(url: str) -> Store:
    """The store at an address: a path, file://, s3://, az://, abfs:// or memory://. Nothing is looked at yet.

    Raises:
        UsageError: ``storage.url``: no store of that kind, or a secret in the address; ``usage.missing_extra``: its
            library is not installed.
    """
    parts = urlsplit(url)
    if "://" not in url:
        return LocalStore(Path(url).expanduser().absolute())
    if parts.scheme not in _SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise UsageError("no such kind of storage", code="storage.url", value=f"{parts.scheme}://", hint=known)
    if parts.password or parts.username or parts.query:
        # It would reach logs and records.
        raise UsageError(
            "the address of a store must not hold credentials",
            code="storage.url",
            place=f"{parts.scheme}://",
            hint="s3 reads AWS_ACCESS_KEY_ID and its siblings, az reads AZURE_STORAGE_CONNECTION_STRING",
        )
    if parts.scheme == "file":
        return LocalStore(Path(url.removeprefix("file://")).absolute())
    return ObjectStore(url.rstrip("/"), _file_system(parts.scheme))


def _file_system(scheme: str) -> Any:
    import fsspec

    try:
        # Listings must show what others have just written.
        return fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=scheme != "memory")
    except ImportError as error:
        raise missing_extra(
            f"{scheme}:// needs a library that is not installed", _SCHEMES[scheme], value=str(error)
        ) from error
    except Exception as error:
        raise no_answer(f"{scheme}://", error) from error
