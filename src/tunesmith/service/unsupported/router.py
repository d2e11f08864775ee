"""Routes that answer with a clear code, so that nobody takes them for a wrong address."""

from __future__ import annotations

from typing import NoReturn

from fastapi import APIRouter

from tunesmith.service.auth.gate import Member
from tunesmith.service.errors import unsupported

_WHOLE = ("GET", "POST", "DELETE")
_PATHS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("/fine_tuning/alpha/graders/run", "Running graders", ("POST",)),
    ("/fine_tuning/alpha/graders/validate", "Validating graders", ("POST",)),
    ("/fine_tuning/jobs/{job}/checkpoints/{checkpoint}/copy", "Copying checkpoints to other resources", _WHOLE[:2]),
    ("/chat/completions", "Keeping conversations, and reading them again,", ("GET",)),
    ("/chat/completions/{rest:path}", "Keeping conversations, and reading them again,", _WHOLE),
    ("/responses", "The way of asking by responses", ("POST",)),
    ("/responses/{rest:path}", "The way of asking by responses", _WHOLE),
    ("/moderations", "Moderation", ("POST",)),
    ("/evals", "Evaluation by OpenAI's evals", _WHOLE),
    ("/evals/{rest:path}", "Evaluation by OpenAI's evals", _WHOLE),
)


def unsupported_router() -> APIRouter:
    """Graders, evals, kept conversations, responses, and Azure's copies of checkpoints."""
    router = APIRouter(tags=["Unsupported"])
    for path, what, methods in _PATHS:
        _refuse(router, path, what, methods)
    return router


def _refuse(router: APIRouter, path: str, what: str, methods: tuple[str, ...]) -> None:
    for method in methods:

        def refuse(_caller: Member) -> NoReturn:
            raise unsupported(what)

        name = f"{method} {path}"
        router.add_api_route(path, refuse, methods=[method], name=name, response_model=None, include_in_schema=False)
