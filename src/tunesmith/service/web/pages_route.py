"""What becomes of a page that the API does not give: the way to sign in, or a page that says why."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from html import escape
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from fastapi.routing import APIRoute
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException

from tunesmith.errors import TunesmithError
from tunesmith.service.auth.gate import COOKIE
from tunesmith.service.context import context_of
from tunesmith.service.errors import ApiError, one_line
from tunesmith.service.web.asking import PROJECT_COOKIE, RefusedError
from tunesmith.service.web.rendering import page

# The service answers these itself.
_TOLD = (ApiError, DBAPIError, HTTPException, TunesmithError)
_log = logging.getLogger(__name__)
_TITLES = {
    400: "That cannot be",
    403: "You may not see this",
    404: "There is no such page",
    429: "Too many requests",
    503: "The service is busy",
}


class PageRoute(APIRoute):
    """A route whose failures are pages too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler that FastAPI makes, with refusals caught."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except RefusedError as refused:
                return refused_page(request, refused)
            except RequestValidationError:
                return refused_page(request, RefusedError(400, "The page's address has a value that is not valid."))
            except _TOLD:
                raise
            except Exception as error:
                # Its text may hold anything, a secret of another one too.
                _log.exception("%s %s failed", request.method, one_line(request.url.path))
                message = f"The service made a mistake ({type(error).__name__}). Its log says more."
                return refused_page(request, RefusedError(500, message))

        return handle


def refused_page(request: Request, refused: RefusedError) -> Response:
    """The page of a refusal; at 401 the one to sign in."""
    if refused.status == 401:
        answer: Response = _onward(request) if _comes_by_a_link(request) else sign_in_page(request, status=401)
    else:
        answer = page(
            request,
            refused.api,
            "error.html",
            status=refused.status,
            title=_TITLES.get(refused.status, "Something went wrong"),
            message=refused.message,
        )
    answer.headers.update(refused.headers)
    if refused.status in (401, 403) and PROJECT_COOKIE in request.cookies:
        # The project that was chosen last may be what is refused.
        answer.delete_cookie(PROJECT_COOKIE, path="/")
    return answer


def _comes_by_a_link(request: Request) -> bool:
    """Whether a page of another site led here: browsers leave the strict cookie of a session out of that request."""
    return request.headers.get("sec-fetch-site") in ("cross-site", "same-site") and COOKIE not in request.cookies


def _onward(request: Request) -> Response:
    """A page that asks for the same one again, which is then asked for by a page of the service."""
    query = f"?{request.url.query}" if request.url.query else ""
    address = escape(f"{request.url.path}{query}")
    text = f'<!doctype html><title>Tunesmith</title><meta http-equiv="refresh" content="0; url={address}">'
    return HTMLResponse(f'{text}<p><a href="{address}">Go on</a></p>\n', headers={"Cache-Control": "no-store"})


def sign_in_page(request: Request, *, status: int = 200) -> Response:
    """The page to sign in."""
    return page(
        request,
        None,
        "sign_in.html",
        status=status,
        has_openid=context_of(request).settings.openid is not None,
        has_ended=status == 401 and COOKIE in request.cookies,
    )
