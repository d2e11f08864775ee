"""What a place to send versions to is, and how the errors of its library are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tunesmith.errors import NetworkError, TunesmithError, missing_extra
from tunesmith.registry.blobs import OnProgress


class Exchange(Protocol):
    """One kind of place."""

    def push(self, folder: Path, place: str, address: str, on_progress: OnProgress) -> str:
        """Send a folder; returns where it is there.

        Args:
            folder: A model in the form of :mod:`tunesmith.exchange.publish`.
            place: What stands behind the kind, such as ``org/name``.
            address: The version here, for the message of a commit and the like.
            on_progress: Told of files.
        """

    def pull(self, place: str, folder: Path, on_progress: OnProgress) -> None:
        """Fetch such a folder, or any other with a model, into an empty one."""


@contextmanager
def telling(place: str, extra: str | None) -> Iterator[None]:
    """Turn whatever a library raises into errors of ours; what it answers may hold addresses, never our credentials."""
    try:
        yield
    except TunesmithError:
        raise
    except ModuleNotFoundError as error:
        raise missing_extra(
            "this needs a library that is not installed", extra, place=place, value=error.name
        ) from error
    except Exception as error:
        raise NetworkError(
            "the other side did not do what was asked",
            code="network.exchange",
            place=place,
            value=f"{type(error).__name__}: {_first_line(error)}",
            hint="check the address, the credentials and the network, then try again",
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
