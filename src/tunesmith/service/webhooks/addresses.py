"""Where a webhook may point: to the outside by https, and inside the house only where the operator says so.

A project names an address and this service asks it, from within its own network. So what a name means is looked up
here, each of its addresses is judged, and the very address that was judged is the one that is asked: a name that means
another thing a moment later reaches nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from tunesmith.service.errors import ApiError
from tunesmith.service.settings import Settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_PLAIN = re.compile(r"[!-~]+")
# Addresses by name and port.
Resolve = Callable[[str, int], Sequence[str]]
_PORTS = {"https": 443, "http": 80}
# Addresses of version 6 that carry one of version 4 to somewhere else.
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Target:
    """What is asked: ``url`` with an address in place of the name, which is in ``host`` (and ``sni``)."""

    url: str
    host: str
    sni: str


def require_plain_url(settings: Settings, url: str) -> None:
    """Refuse what cannot be the address of a webhook, whatever its name means.

    Raises:
        ApiError: 400.
    """
    parts = urlsplit(url)
    try:
        port, host = parts.port, parts.hostname
    except ValueError:
        port, host = None, None
    if not host or parts.username is not None or parts.fragment or not _PLAIN.fullmatch(url):
        raise _refused("an address such as https://example.com/hook, without a name and password in it")
    if parts.scheme != "https" and not (parts.scheme == "http" and settings.webhook_networks):
        raise _refused("an address that begins with https://")
    if port == 0:
        raise _refused("a port that there is")


def target_of(settings: Settings, url: str, resolve: Resolve) -> Target:
    """What to ask for a webhook's address.

    Args:
        settings: The service's, with the networks inside the house that are allowed.
        url: The address.
        resolve: Looks a name up.

    Raises:
        ApiError: 400: its name means an address that nothing here may ask.
        OSError: There is no such name.
    """
    require_plain_url(settings, url)
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or _PORTS[parts.scheme]
    found = [ipaddress.ip_address(text.partition("%")[0]) for text in resolve(host, port)]
    if not found:
        raise OSError(f"{host} has no address")
    for address in found:
        _require_allowed(settings, address, is_plain=parts.scheme == "http")
    chosen = found[0]
    shown = f"[{chosen}]" if chosen.version == 6 else str(chosen)
    there = urlunsplit((parts.scheme, f"{shown}:{port}", parts.path or "/", parts.query, ""))
    named = f"[{host}]" if ":" in host else host
    return Target(there, named if port == _PORTS[parts.scheme] else f"{named}:{port}", host)


def _require_allowed(settings: Settings, address: Address, *, is_plain: bool) -> None:
    inside = any(address in ipaddress.ip_network(one) for one in settings.webhook_networks)
    if inside:
        return
    if is_plain:
        raise _refused("an address that begins with https://")
    if not _is_public(address):
        raise _refused("an address of the public internet; this one is inside the service's own network")


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        carried = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address in _TRANSLATED:
            carried = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if carried:
            return _is_public(carried)
    return address.is_global and not address.is_multicast


def _refused(wanted: str) -> ApiError:
    return ApiError(400, f"A webhook needs {wanted}", code="invalid_webhook_url", param="url")
