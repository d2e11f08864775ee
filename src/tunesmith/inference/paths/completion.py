"""``/v1/completions``: texts continued as they are."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from tunesmith.inference.catalog import ModelCatalog
from tunesmith.inference.failures import RefusedError, detail_of
from tunesmith.inference.paths.asking import Desk, Stopped, start_stream, tenant_of
from tunesmith.inference.paths.chat import EventsResponse, event, in_thread, stopped_answer, usage_of
from tunesmith.inference.prompts import decoding_for, shaping_for, text_tokens
from tunesmith.inference.requests import Piece, Request, ScoredToken
from tunesmith.inference.token_texts import TokenTexts
from tunesmith.wire.chat import ErrorBody
from tunesmith.wire.completions import (
    MOST_PROMPTS,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)


def completion_router(catalog: ModelCatalog, desk: Desk) -> APIRouter:
    """The path, over the models of a catalog."""
    router = APIRouter()

    def requests_of(body: CompletionRequest, tenant: str) -> list[Request]:
        model = catalog.require(body.model, "writes")
        _require_served(body)
        found = []
        with catalog.tokenizers.lock:
            tokenizer = catalog.tokenizer(model)
            shaping = shaping_for(body, len(tokenizer))
            for prompt in body.prompts():
                tokens = text_tokens(tokenizer, prompt)
                decoding = decoding_for(body, len(tokens), catalog.context(model), param="prompt")
                request = Request(
                    model.name, tokens, decoding, body.n or 1, shaping, body.logprobs, tenant=tenant or model.name
                )
                found.append(request)
        return found

    def shown_with(body: CompletionRequest) -> tuple[list[str], TokenTexts]:
        """What goes before each request's answers, and the texts of tokens."""
        model, prompts = catalog.require(body.model, "writes"), body.prompts()
        if not body.echo:
            return [""] * len(prompts), catalog.texts(model)
        with catalog.tokenizers.lock:
            tokenizer = catalog.tokenizer(model)
            shown = [one if isinstance(one, str) else str(tokenizer.decode(one)) for one in prompts]
        return shown, catalog.texts(model)

    @router.post("/v1/completions", response_model=None)
    async def complete(body: CompletionRequest, http: HttpRequest) -> Response:
        requests = await in_thread(requests_of, body, tenant_of(http))
        before, texts = await in_thread(shown_with, body)
        if body.stream:
            pieces = start_stream(desk, requests)
            return EventsResponse(_events(body, requests, before, texts, pieces), requests)
        answers = await desk.answers(requests, http)
        if isinstance(answers, Stopped):
            return stopped_answer(answers)
        choices: list[CompletionChoice] = []
        for number, ours in enumerate(answers):
            for answer in ours:
                logprobs = None if body.logprobs is None else _logprobs(answer.scored, texts, len(before[number]))
                choices.append(
                    CompletionChoice(
                        index=len(choices),
                        text=before[number] + answer.text,
                        logprobs=logprobs,
                        finish_reason=answer.finish_reason,
                    )
                )
        usage = usage_of(
            sum(len(request.prompt) for request in requests),
            sum(len(answer.token_ids) for ours in answers for answer in ours),
        )
        return JSONResponse(
            _completion(body, choices, f"cmpl-{uuid.uuid4().hex}").model_copy(update={"usage": usage}).model_dump()
        )

    return router


def _require_served(body: CompletionRequest) -> None:
    if body.best_of not in (None, body.n or 1):
        raise RefusedError(400, "not supported here: best_of", param="best_of", code="unsupported_parameter")
    if body.echo and body.logprobs is not None:
        raise RefusedError(
            400,
            "scores of the prompt are not told: echo and logprobs cannot be asked for together",
            param="echo",
            code="unsupported_parameter",
        )
    if not 1 <= len(body.prompts()) <= MOST_PROMPTS:
        raise RefusedError(400, f"between 1 and {MOST_PROMPTS} prompts are taken", param="prompt", code="invalid_value")


def _completion(body: CompletionRequest, choices: list[CompletionChoice], name: str) -> Completion:
    return Completion(id=name, created=int(time.time()), model=body.model, choices=choices)


async def _events(
    body: CompletionRequest,
    requests: Sequence[Request],
    before: Sequence[str],
    texts: TokenTexts,
    pieces: AsyncIterator[tuple[int, Piece]],
) -> AsyncIterator[bytes]:
    name, written = f"cmpl-{uuid.uuid4().hex}", 0
    prompts = sum(len(request.prompt) for request in requests)
    counts_always = body.stream_options is not None and body.stream_options.continuous_usage_stats
    offsets: dict[int, int] = {}
    try:
        async for number, piece in pieces:
            index = number * requests[0].answers + piece.index
            text = (before[number] if index not in offsets else "") + piece.text
            written += piece.finish_reason is None
            scored = [piece.scored] if piece.scored is not None else []
            logprobs = _logprobs(scored, texts, offsets.get(index, 0)) if scored else None
            offsets[index] = offsets.get(index, 0) + len(text)
            if text or piece.finish_reason is not None or logprobs is not None:
                choice = CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=piece.finish_reason)
                chunk = _completion(body, [choice], name)
                if counts_always:
                    chunk = chunk.model_copy(update={"usage": usage_of(prompts, written)})
                yield event(chunk.model_dump_json(exclude=None if counts_always else {"usage"}).encode())
    except Exception as error:
        yield event(ErrorBody(error=detail_of(error)).model_dump_json().encode())
        return
    if body.stream_options is not None and body.stream_options.include_usage:
        last = _completion(body, [], name).model_copy(update={"usage": usage_of(prompts, written)})
        yield event(last.model_dump_json().encode())
    yield event(b"[DONE]")


def _logprobs(scored: Sequence[ScoredToken], texts: TokenTexts, offset: int) -> CompletionLogprobs:
    tokens = [texts.text_of(one.chosen.token_id) for one in scored]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    likeliest: list[dict[str, float] | None] = [
        {texts.text_of(other.token_id): other.logprob for other in one.likeliest} for one in scored
    ]
    return CompletionLogprobs(
        tokens=tokens,
        token_logprobs=[one.chosen.logprob for one in scored],
        top_logprobs=likeliest if any(likeliest) else None,
        text_offset=offsets,
    )
