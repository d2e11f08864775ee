"""Keeps tests from talking to other machines: an audit hook sees every connection that Python makes in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")
_allowed = 0
_installed = False


def install() -> None:
    """Start refusing. An audit hook cannot be taken out again, so it is put in once."""
    global _installed  # noqa: PLW0603
    if not _installed:
        sys.addaudithook(_refuse_outside)
        _installed = True


@contextmanager
def allowed() -> Iterator[None]:
    """Let connections through while the block runs."""
    global _allowed  # noqa: PLW0603
    _allowed += 1
    try:
        yield
    finally:
        _allowed -= 1


def _refuse_outside(event: str, arguments: tuple[object, ...]) -> None:
    if _allowed or event not in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        return
    host = arguments[0] if event == "socket.getaddrinfo" else _host(arguments[1])
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if isinstance(host, str) and host and not host.startswith(_LOOPBACK):
        # Not an Exception: code that takes a failed connection for an answer must not swallow it.
        pytest.fail(f"this test reached for {host}: mark it `network`, or serve it from the loopback address")


def _host(address: object) -> object:
    """The host of an internet address; a local socket's address is a path and has none."""
    return address[0] if isinstance(address, tuple) else None
