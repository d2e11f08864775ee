"""Everything that goes wrong, in the shape in which OpenAI's clients read it."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tunesmith.errors import ResourceError, TunesmithError, UsageError
from tunesmith.inference.requests import BusyError
from tunesmith.wire.chat import ErrorBody, ErrorDetail

_RETRY_SECONDS = 2


class RefusedError(Exception):
    """A request that cannot be served, with the status and body to answer."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.detail = ErrorDetail(message=message, type="invalid_request_error", param=param, code=code)


def handle_errors(app: FastAPI) -> None:
    """Every failure in OpenAI's shape, FastAPI's own included."""

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        return error_answer(error.status, error.detail)

    # Handled here and not with all the others below, which the web server logs with their traces.
    @app.exception_handler(BusyError)
    @app.exception_handler(TunesmithError)
    async def told(_: Request, error: Exception) -> JSONResponse:
        return answer_to(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()[0]
        place = () if found["type"] == "json_invalid" else found["loc"]
        param = ".".join(str(part) for part in place if part != "body") or None
        message = f"Invalid value for '{param}': {found['msg']}" if param else f"Invalid request: {found['msg']}"
        return error_answer(
            400, ErrorDetail(message=message, type="invalid_request_error", param=param, code="invalid_value")
        )

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{error.detail}: {request.method} {request.url.path}"
        return error_answer(error.status_code, ErrorDetail(message=message, type="invalid_request_error"))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return answer_to(error)


def answer_to(error: BaseException) -> JSONResponse:
    """The answer to a failure, its status included."""
    answer = error_answer(status_of(error), detail_of(error))
    if isinstance(error, BusyError):
        # OpenAI's clients wait so long and try again.
        answer.headers["Retry-After"] = str(_RETRY_SECONDS)
    return answer


def status_of(error: BaseException) -> int:
    """The HTTP status of a failure."""
    if isinstance(error, RefusedError):
        return error.status
    if isinstance(error, BusyError):
        return 429
    if isinstance(error, UsageError):
        return 400
    return 503 if isinstance(error, ResourceError) else 500


def detail_of(error: BaseException) -> ErrorDetail:
    """The body of a failure. What is no error of ours is named by its kind alone: its text may hold anything."""
    if isinstance(error, RefusedError):
        return error.detail
    if isinstance(error, BusyError):
        return ErrorDetail(
            message="Too many requests wait; try again in a moment",
            type="rate_limit_error",
            code="rate_limit_exceeded",
        )
    if isinstance(error, UsageError):
        message = f"{error.message}: {error.value}" if error.value else error.message
        return ErrorDetail(message=message, type="invalid_request_error", param=error.place, code=error.code)
    if isinstance(error, TunesmithError):
        return ErrorDetail(message=error.message, type="server_error", code=error.code)
    return ErrorDetail(message=f"unexpected error: {type(error).__name__}", type="server_error")


def error_answer(status: int, detail: ErrorDetail) -> JSONResponse:
    """An answer with an error's body."""
    return JSONResponse(ErrorBody(error=detail).model_dump(), status_code=status)
