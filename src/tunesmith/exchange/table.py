"""Where versions can be sent and fetched from. A new kind is a file beside this one and a row in the table."""

from __future__ import annotations

from collections.abc import Mapping

from tunesmith.errors import UsageError
from tunesmith.exchange.base import Exchange
from tunesmith.exchange.hub import Hub
from tunesmith.exchange.mlflow import MlFlow
from tunesmith.exchange.oci import Oci

EXCHANGES: Mapping[str, Exchange] = {"hub:": Hub(), "mlflow:": MlFlow(), "oci://": Oci()}


def find_exchange(target: str) -> tuple[Exchange, str]:
    """The kind of place that an address names, and what stands behind the kind.

    Raises:
        UsageError: ``usage.target``: there is no such kind.
    """
    for prefix, exchange in EXCHANGES.items():
        if target.startswith(prefix):
            return exchange, target.removeprefix(prefix)
    raise UsageError(
        "versions cannot be sent there or fetched from there",
        code="usage.target",
        value=target,
        hint="hub:org/name, mlflow:NAME or oci://host/repository:tag",
    )
