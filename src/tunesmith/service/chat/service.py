"""Before a model is asked: may the project, which model, which process. Afterwards: what was used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool

from tunesmith.service.auth.caller import Caller
from tunesmith.service.auth.pace import count_tokens, require_tokens
from tunesmith.service.chat.schema import Question
from tunesmith.service.context import Context
from tunesmith.service.shared.choosing import Chosen, choose
from tunesmith.service.shared.engines import Place, place_of
from tunesmith.service.shared.metering import Kind, count_use, require_budget


@dataclass
class Used:
    """Tokens of one request, as far as they are known."""

    input_tokens: int = 0
    output_tokens: int = 0

    def note(self, usage: Any) -> None:
        """Take over what an answer or a chunk says; the last one is right."""
        if isinstance(usage, dict):
            self.input_tokens = int(usage.get("prompt_tokens") or 0)
            self.output_tokens = int(usage.get("completion_tokens") or 0)


@dataclass(frozen=True)
class Found:
    """Who answers, where, and headers that tell how many tokens the project has left in this minute."""

    chosen: Chosen
    place: Place
    headers: Mapping[str, str]


async def find(context: Context, caller: Caller, question: Question) -> Found:
    """Who answers, and where.

    Raises:
        ApiError: The budget or the minute's tokens are spent, there is no such model, or the project may not use it.
    """

    def now() -> Found:
        headers = require_tokens(context, caller)
        with context.database.read() as connection:
            require_budget(context, connection, caller.project_id)
            chosen = choose(context, connection, caller, question.model)
        return Found(chosen, place_of(context, chosen.named), headers)

    return await run_in_threadpool(now)


async def count(context: Context, caller: Caller, chosen: Chosen, used: Used) -> None:
    """Write down what a request has used."""

    def now() -> None:
        count_tokens(context, caller, used.input_tokens + used.output_tokens)
        quantities: dict[Kind, int] = {
            "input_tokens": used.input_tokens,
            "output_tokens": used.output_tokens,
            "requests": 1,
        }
        with context.database.write() as connection:
            count_use(
                context,
                connection,
                caller.project_id,
                chosen.named.name,
                quantities,
                key_id=caller.key_id,
                price_of=chosen.named.base,
            )

    await run_in_threadpool(now)
