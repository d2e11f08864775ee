"""Paths for signing in and out."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from tunesmith.service.auth.caller import Caller
from tunesmith.service.auth.gate import COOKIE, Inference, client_of, find_key, request_id
from tunesmith.service.auth.pace import count_failure, pace_sign_ins, require_few_failures
from tunesmith.service.context import Context, InContext
from tunesmith.service.errors import ApiError
from tunesmith.service.sessions.openid import CALLBACK, SIGN_IN_SECONDS, begin_sign_in, end_sign_in
from tunesmith.service.sessions.schema import SignIn, own_project, session_answer
from tunesmith.service.sessions.sessions import (
    NewSession,
    begin_session,
    end_session,
    projects_to_choose,
    session_of,
)
from tunesmith.service.shared.telling import note_action

_SIGN_IN_COOKIE = "tunesmith_sign_in"
# The way back began on the provider's page, and browsers leave a strict cookie out of every redirect on it. What this
# page asks for is asked for by the service's own page, and brings the session along.
_ONWARD = """\
<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta http-equiv="refresh" content="0; url=/">
  <title>Signed in · Tunesmith</title>
</head>
<body><p>You are signed in. <a href="/">Go on</a></p></body>
</html>
"""


def sessions_router() -> APIRouter:
    """Sessions of browsers."""
    router = APIRouter(tags=["sessions"])

    @router.post("/sessions")
    def sign_in(body: SignIn, request: Request, context: InContext) -> Response:
        if request.headers.get("sec-fetch-site") == "cross-site":
            raise ApiError(403, "The request does not come from this service's own pages", code="csrf")
        row = find_key(context, body.key, client_of(request))
        where = (request_id(request), client_of(request))
        who = Caller(row.scope, row.project_id is None, row.project_id or "", f"key {row.id}", row.id, None, *where)
        with context.database.write() as connection:
            session = begin_session(context, connection, key_id=row.id)
            note_action(context, connection, who, "session.create", target=row.id)
        answer = JSONResponse({"object": "session", **_told(session)})
        _set_cookie(context, answer, session)
        return answer

    @router.get("/session")
    def who_am_i(request: Request, context: InContext, caller: Inference) -> dict[str, Any]:
        with context.database.read() as connection:
            row = session_of(context, connection, request.cookies.get(COOKIE))
            projects = [own_project(one) for one in projects_to_choose(connection, caller)]
        by_session = row is not None and "authorization" not in request.headers and "api-key" not in request.headers
        if row is None or not by_session:
            return session_answer(caller, projects, None, None)
        return session_answer(caller, projects, row.csrf, row.expires_at)

    @router.delete("/session")
    def sign_out(request: Request, context: InContext, _: Inference) -> Response:
        end_session(context, request.cookies.get(COOKIE, ""))
        answer = JSONResponse({"object": "session.deleted", "deleted": True})
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return answer

    return router


def openid_router() -> APIRouter:
    """The way to the company's provider and back; open to everybody."""
    router = APIRouter(prefix="/openid", tags=["sessions"])

    @router.get("/login")
    def login(request: Request, context: InContext) -> Response:
        pace_sign_ins(context, client_of(request))
        way = begin_sign_in(context)
        answer = RedirectResponse(way.address, status_code=302)
        # The browser comes back from another site, and brings a strict cookie not along.
        answer.set_cookie(
            _SIGN_IN_COOKIE,
            way.state,
            max_age=SIGN_IN_SECONDS,
            path=CALLBACK,
            httponly=True,
            samesite="lax",
            secure=context.settings.secure_cookies,
        )
        return answer

    @router.get("/callback")
    def callback(request: Request, context: InContext, code: str = "", state: str = "", error: str = "") -> Response:
        require_few_failures(context, client_of(request))
        try:
            if error or not code:
                raise ApiError(401, "The provider did not let you sign in", code="openid_refused")
            session = end_sign_in(
                context,
                code=code,
                state=state,
                kept=request.cookies.get(_SIGN_IN_COOKIE),
                request_id=request_id(request),
                client=client_of(request),
            )
        except ApiError as refused:
            if refused.status in (401, 403):
                count_failure(context, client_of(request))
            raise
        answer = HTMLResponse(_ONWARD, headers={"Cache-Control": "no-store"})
        _set_cookie(context, answer, session)
        answer.delete_cookie(_SIGN_IN_COOKIE, path=CALLBACK)
        return answer

    return router


def _told(session: NewSession) -> dict[str, Any]:
    return {"csrf_token": session.csrf, "expires_at": int(session.expires_at)}


def _set_cookie(context: Context, answer: Response, session: NewSession) -> None:
    answer.set_cookie(
        COOKIE,
        session.cookie,
        max_age=int(session.expires_at - context.now()),
        path="/",
        httponly=True,
        samesite="strict",
        secure=context.settings.secure_cookies,
    )
