"""A page asks the service's own API within the process, as whoever looks at the page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import Request

OWN = "/tunesmith/v1"
PROJECT_COOKIE = "tunesmith_project"
PROJECT_HEADER = "OpenAI-Project"
# What says who asks, and whom to believe about it; nothing else of a page's request is handed on.
_HANDED_ON = ("cookie", "authorization", "api-key")
_PAGE_SECONDS = 60.0


class RefusedError(Exception):
    """The API did not give what a page needs.

    Args:
        status: HTTP's number.
        message: The API's words.
        headers: What the answer is to have, such as ``Retry-After``.

    Attributes:
        api: The API as its reader sees it; None where nobody is signed in.
    """

    api: Api | None = None

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


class Api:
    """The API as one reader of pages sees it.

    Attributes:
        session: Who is signed in, as the API's session tells it.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.session: dict[str, Any] = {}

    @property
    def may_change(self) -> bool:
        """Whether the reader may make jobs and files, and not only ask models."""
        return self.session.get("scope") in ("member", "admin")

    @property
    def is_admin(self) -> bool:
        """Whether the reader runs the project."""
        return self.session.get("scope") == "admin"

    async def get(self, path: str, **query: Any) -> Any:
        """The JSON of a path.

        Args:
            path: With its prefix.
            query: Parameters; those that are None are left out.

        Raises:
            RefusedError: The API says anything but yes.
        """
        answer = await self._client.get(path, params={key: value for key, value in query.items() if value is not None})
        if answer.status_code == httpx.codes.OK:
            return answer.json()
        retry = answer.headers.get("retry-after")
        raise RefusedError(answer.status_code, _words(answer), {} if retry is None else {"Retry-After": retry})

    async def find(self, path: str, **query: Any) -> Any | None:
        """The JSON of a path; None where there is nothing.

        Raises:
            RefusedError: The API refuses it for another reason.
        """
        try:
            return await self.get(path, **query)
        except RefusedError as refused:
            if refused.status == httpx.codes.NOT_FOUND:
                return None
            raise


@asynccontextmanager
async def asking(request: Request) -> AsyncIterator[Api]:
    """The API for the one who asks for a page.

    Raises:
        RefusedError: 401: nobody is signed in.
    """
    headers = {name: request.headers[name] for name in _HANDED_ON if name in request.headers}
    project = request.cookies.get(PROJECT_COOKIE)
    if project:
        headers[PROJECT_HEADER] = project
    client = (request.client.host, request.client.port) if request.client is not None else ("127.0.0.1", 0)
    transport = httpx.ASGITransport(request.app, raise_app_exceptions=False, client=client)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://service", headers=headers, timeout=_PAGE_SECONDS
    ) as inner:
        api = Api(inner)
        api.session = await api.get(f"{OWN}/session")
        try:
            yield api
        except RefusedError as refused:
            # The page that says why is for the same reader.
            refused.api = api
            raise


def _words(answer: httpx.Response) -> str:
    """What an error says, whatever its form."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the service answered {answer.status_code}"
