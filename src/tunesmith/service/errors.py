"""Failures as OpenAI's clients read them: a status, a body with all four keys, and whether another try makes sense."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError as ValueOfDatabaseError
from sqlalchemy.exc import DBAPIError, OperationalError
from starlette.exceptions import HTTPException

from tunesmith.errors import (
    DataError,
    ModelError,
    NetworkError,
    OutputError,
    RecipeError,
    ResourceError,
    RunError,
    SupervisionError,
    TunesmithError,
    UsageError,
)
from tunesmith.wire.chat import ErrorBody, ErrorDetail

_log = logging.getLogger(__name__)
_OF_THE_ASKER = (UsageError, RecipeError, DataError, SupervisionError, ModelError)
_RETRY_SECONDS = 2
# Of what the framework refuses.
_CODES = {400: "invalid_value", 404: "unknown_url", 405: "method_not_allowed"}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is not served.

    Args:
        status: HTTP's number.
        message: What is wrong, and what to do about it.
        code: A stable word.
        param: The parameter that is wrong.
        headers: More of the answer, such as ``Retry-After``.
        retry: Whether the same request may do better later; OpenAI's clients then try again by themselves.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.status = status
        self.detail = ErrorDetail(message=message, type=kind, param=param, code=code)
        if status == 409 and retry is None:
            # OpenAI's clients try again after a conflict; what is in the way does not go by itself.
            retry = False
        told = {} if retry is None else {"x-should-retry": "true" if retry else "false"}
        self.headers = {**told, **(headers or {})}


def not_found(kind: str, name: str, param: str | None = None) -> ApiError:
    """What is told of a thing that is not there, or is another project's: both look the same."""
    return ApiError(404, f"No such {kind}: {name}", code="not_found", param=param)


def unsupported(what: str) -> ApiError:
    """What is told of a part of the contract that this service does not have."""
    return ApiError(
        501,
        f"{what} is not supported by this service",
        code="unsupported",
        # OpenAI's clients try again after 5xx; it would be the same.
        retry=False,
    )


def handle_errors(app: FastAPI) -> None:
    """Every failure in OpenAI's form, those of the framework included."""

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> JSONResponse:
        return error_answer(error.status, error.detail, error.headers)

    @app.exception_handler(TunesmithError)
    async def told(_: Request, error: TunesmithError) -> JSONResponse:
        return told_answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return error_answer(400, _invalid(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{error.detail}: {request.method} {request.url.path}"
        kind = _TYPES.get(error.status_code, "invalid_request_error")
        code = _CODES.get(error.status_code)
        return error_answer(
            error.status_code, ErrorDetail(message=message, type=kind, code=code), dict(error.headers or {})
        )

    @app.exception_handler(DBAPIError)
    async def database(request: Request, error: DBAPIError) -> JSONResponse:
        _log.error(
            "%s %s: the database failed: %s", request.method, one_line(request.url.path), type(error.orig).__name__
        )
        if isinstance(error, ValueOfDatabaseError):
            # Such as a zero byte within a text.
            detail = ErrorDetail(message="a value cannot be kept", type="invalid_request_error", code="invalid_value")
            return error_answer(400, detail)
        status = 503 if isinstance(error, OperationalError) else 500
        detail = ErrorDetail(message="the database does not answer", type="server_error", code="database")
        return error_answer(status, detail, {"Retry-After": str(_RETRY_SECONDS)})

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        # Its text may hold anything, a secret of another one too.
        _log.exception("%s %s failed", request.method, one_line(request.url.path), exc_info=error)
        return error_answer(500, ErrorDetail(message=f"unexpected error: {type(error).__name__}", type="server_error"))


def _invalid(found: Mapping[str, Any]) -> ErrorDetail:
    """The first thing that is wrong with a body or a query."""
    # Of JSON that breaks off, the place is a number of letters.
    place = () if found["type"] == "json_invalid" else found["loc"]
    param = ".".join(str(part) for part in place if part not in ("body", "query", "path")) or None
    said = str(found["msg"]).removeprefix("Value error, ")
    message = f"Invalid value for '{param}': {said}" if param else f"Invalid request: {said}"
    code = "invalid_value"
    if found["type"] == "missing":
        code = "missing_required_parameter"
        message = f"Missing required parameter: '{param}'" if param else "Invalid request: it has no JSON body"
    return ErrorDetail(message=message, type="invalid_request_error", param=param, code=code)


def told_answer(error: TunesmithError) -> JSONResponse:
    """An error of ours: the asker's, or this machine's."""
    status = status_of(error)
    kind = "invalid_request_error" if status < 500 else "server_error"
    headers = {"Retry-After": str(_RETRY_SECONDS)} if status == 503 else {}
    return error_answer(
        status, ErrorDetail(message=words_of(error), type=kind, param=error.place, code=error.code), headers
    )


def status_of(error: TunesmithError) -> int:
    """The HTTP status of an error of ours."""
    if isinstance(error, _OF_THE_ASKER):
        return 400
    if isinstance(error, RunError):
        return 409
    return 503 if isinstance(error, (NetworkError, ResourceError, OutputError)) else 500


def words_of(error: TunesmithError) -> str:
    """All that an error says, problem by problem."""
    return "\n".join(error.lines())


def one_line(text: str) -> str:
    """A text of a stranger for a log: nothing in it ends the line or moves the cursor."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def error_answer(status: int, detail: ErrorDetail, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An answer with an error's body."""
    return JSONResponse(ErrorBody(error=detail).model_dump(), status_code=status, headers=dict(headers or {}))
