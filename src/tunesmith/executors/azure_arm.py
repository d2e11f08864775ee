"""The Azure Resource Manager's REST interface, through the pipeline that Azure's own libraries use."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tunesmith.errors import NetworkError, RunError
from tunesmith.executors.azure_place import default_credential, telling_azure

_UNDER_WAY = frozenset({"InProgress", "Waiting", "Accepted", "Creating", "Updating", "Provisioning"})
_PATIENCE_SECONDS = 600.0
_POLL_SECONDS = 2.0
_MOST_PAGES = 1000


@dataclass
class ResourceManager:
    """One address of the Resource Manager, asked as whoever is logged in.

    Attributes:
        address: Such as ``https://management.azure.com``.
        poll_seconds: The time between two looks at something that takes its time.
    """

    address: str
    poll_seconds: float = _POLL_SECONDS
    _client: Any = field(default=None, repr=False)

    def get(self, path: str, api_version: str) -> dict[str, Any] | None:
        """A resource; None where there is none.

        Raises:
            TunesmithError: It is refused, or there is no answer.
        """
        return self.send("GET", path, api_version)

    def put(self, path: str, body: Mapping[str, Any], api_version: str) -> dict[str, Any]:
        """Make a resource, and wait until it is made.

        Raises:
            RunError: ``azure.failed``: it was taken, and then could not be made.
            TunesmithError: It is refused, or there is no answer.
        """
        found = self.send("PUT", path, api_version, body)
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            state = str(((found or {}).get("properties") or {}).get("provisioningState") or "")
            if found is not None and state not in _UNDER_WAY:
                break
            if time.monotonic() > end:
                raise NetworkError("Azure takes too long", code="network.azure", place=path, value=state or "no answer")
            time.sleep(self.poll_seconds)
            found = self.get(path, api_version)
        if state in ("Failed", "Canceled"):
            raise RunError("Azure could not make this", code="azure.failed", place=path, value=state)
        return found

    def post(self, path: str, body: Mapping[str, Any] | None, api_version: str | None) -> dict[str, Any] | None:
        """Ask a resource to do something; what it says at once, and None where there is none such."""
        return self.send("POST", path, api_version, body)

    def pages(self, path: str, api_version: str) -> Iterator[dict[str, Any]]:
        """What a list holds, over all its pages."""
        answer = self.get(path, api_version)
        for _ in range(_MOST_PAGES):
            if answer is None:
                return
            yield from answer.get("value") or []
            following = answer.get("nextLink")
            if not following:
                return
            parts = urlsplit(str(following))
            if parts.netloc != urlsplit(self.address).netloc:
                # Whoever gets this request gets the token with it.
                raise RunError("a list goes on elsewhere", code="azure.refused", place=path, value=parts.netloc)
            answer = self.send("GET", f"{parts.path}?{parts.query}", None)

    def send(
        self, method: str, path: str, api_version: str | None, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """One request; None for 404.

        Raises:
            TunesmithError: It is refused, or there is no answer.
        """
        with telling_azure(path.partition("?")[0]):
            from azure.core.exceptions import HttpResponseError
            from azure.core.rest import HttpRequest

            query = {} if api_version is None else {"api-version": api_version}
            request = HttpRequest(method, f"{self.address}{path}", params=query, json=body)
            # What was asked to start something may have done so though no answer came.
            retries = {"retry_total": 0} if method == "POST" else {}
            response = self._pipeline().send_request(request, **retries)
            if response.status_code == 404:
                return None
            if response.status_code >= 400:
                response.read()
                raise HttpResponseError(response=response)
            content = response.text()
            found = response.json() if content.strip() else {}
            return found if isinstance(found, dict) else {}

    def _pipeline(self) -> Any:
        if self._client is None:
            from azure.core import PipelineClient
            from azure.core.pipeline import policies

            self._client = PipelineClient(
                self.address,
                policies=[
                    policies.RequestIdPolicy(),
                    policies.UserAgentPolicy(sdk_moniker="tunesmith"),
                    policies.RetryPolicy(),
                    policies.BearerTokenCredentialPolicy(default_credential(), f"{self.address}/.default"),
                ],
            )
        return self._client
