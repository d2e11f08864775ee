"""What every deployer does: let a model answer requests somewhere, or files of requests, until it is taken away.

As an executor, a deployer knows no registry and no run folder. It gets an :class:`Endpoint`, gives back a handle of
plain data that is kept beside the runs, and is asked by it from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from tunesmith.executors.protocol import Handle

EndpointState = Literal["starting", "ready", "stopped", "failed", "lost"]


@dataclass(frozen=True)
class Endpoint:
    """One deployment to be made.

    Attributes:
        name: Letters, digits and ``-``, beginning with a letter: a name that every platform takes.
        key: Deployments of one key are one, however often they are sent.
        models: What answers, by the names that requests use: addresses of the registry, ids of the catalog or the hub,
            or places that the platform can read.
        kind: Whether requests are answered one by one, or in files.
        replicas: How many processes answer; 0 scales to none where the platform can.
        environment: Variables of the server, none of them secret.
    """

    name: str
    key: str
    models: Mapping[str, str]
    kind: Literal["real-time", "batch"] = "real-time"
    replicas: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EndpointStatus:
    """A deployment as its platform sees it; ``address`` is the base address of OpenAI's paths once it answers."""

    state: EndpointState
    words: str = ""
    address: str | None = None
    reason: str | None = None


class Deployer(Protocol):
    """Where a model answers."""

    def deploy(self, endpoint: Endpoint) -> Handle:
        """Make the deployment, or find the one that was made under the same key.

        Raises:
            TunesmithError: The platform refuses it, or does not answer.
        """

    def status(self, handle: Handle) -> EndpointStatus:
        """How it is; ``lost`` where the platform knows nothing of it."""

    def delete(self, handle: Handle) -> None:
        """Take it away; one that is gone already is no error."""


@runtime_checkable
class RendersEndpoint(Protocol):
    """Can write what it would make."""

    def render_endpoint(self, endpoint: Endpoint) -> Mapping[str, str]:
        """The files, by name."""
