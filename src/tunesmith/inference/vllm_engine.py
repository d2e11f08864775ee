"""vLLM where there is a GPU: it batches and samples itself, and holds adapters beside the base.

Its own loop runs in a thread of ours; requests and pieces are handed over as everywhere else.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.errors import UsageError
from tunesmith.inference.metrics import Metrics
from tunesmith.inference.requests import Answer, BusyError, Piece, Request, ScoredToken, TokenScore
from tunesmith.wire.serving import ServedModel

_HIGHEST_RANK = 64


class VllmEngine:
    """See :class:`tunesmith.inference.requests.Engine`.

    Args:
        served: Models by name, each base a folder; adapters are LoRA.
        metrics: Counts what happens.
        rows_at_once: The most answers that are written at once.
        most_waiting: The most requests that wait.
        adapters_in_memory: How many adapters stay on the device.
    """

    def __init__(
        self,
        served: Mapping[str, ServedModel],
        metrics: Metrics,
        *,
        rows_at_once: int,
        most_waiting: int,
        adapters_in_memory: int,
    ) -> None:
        self._served = served
        self._metrics = metrics
        self._rows_at_once = rows_at_once
        self._most = rows_at_once + most_waiting
        self._adapters_in_memory = adapters_in_memory
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._engines: dict[Path, Any] = {}
        self._going: set[asyncio.Task[None]] = set()
        self._numbers = {name: at for at, name in enumerate(served, start=1)}

    def start(self) -> None:
        """Load the bases.

        Raises:
            UsageError: vLLM is not installed.
        """
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._load(), self._loop).result()

    def submit(self, request: Request) -> None:
        """As in the protocol."""
        if len(self._going) >= self._most:
            raise BusyError
        self._loop.call_soon_threadsafe(self._begin, request)

    def close(self) -> None:
        """Answer what was taken, then end."""

        async def finish() -> None:
            await asyncio.gather(*self._going, return_exceptions=True)
            for engine in self._engines.values():
                engine.shutdown()

        asyncio.run_coroutine_threadsafe(finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _load(self) -> None:
        library = _library()
        for model in self._served.values():
            if model.folder not in self._engines:
                settings = library.AsyncEngineArgs(
                    model=str(model.folder),
                    enable_lora=any(
                        one.adapter is not None and one.folder == model.folder for one in self._served.values()
                    ),
                    max_loras=min(8, self._adapters_in_memory),
                    max_cpu_loras=self._adapters_in_memory,
                    max_lora_rank=_HIGHEST_RANK,
                    max_num_seqs=self._rows_at_once,
                )
                self._engines[model.folder] = library.AsyncLLMEngine.from_engine_args(settings)

    def _begin(self, request: Request) -> None:
        task = self._loop.create_task(self._answer(request))
        self._going.add(task)
        task.add_done_callback(self._going.discard)

    async def _answer(self, request: Request) -> None:
        request.begun.set()
        self._metrics.began(request)
        how = "failed"
        try:
            answers = await self._write(request)
            how = "cancelled" if answers is None else "answered"
            if answers is None:
                request.done.cancel()
            elif not request.done.cancelled():
                request.done.set_result(answers)
        except Exception as error:
            if not request.done.cancelled():
                request.done.set_exception(error)
        finally:
            self._metrics.ended(request, how)

    async def _write(self, request: Request) -> list[Answer] | None:
        library = _library()
        served = self._served[request.model]
        adapter = None
        if served.adapter is not None:
            adapter = library.lora.request.LoRARequest(request.model, self._numbers[request.model], str(served.adapter))
        name = uuid.uuid4().hex
        engine = self._engines[served.folder]
        said: dict[int, _Said] = {index: _Said(request, index) for index in range(request.answers)}
        prompt = {"prompt_token_ids": request.prompt}
        first = True
        async for output in engine.generate(prompt, _sampling(library, request), name, lora_request=adapter):
            if request.cancelled.is_set():
                await engine.abort(name)
                return None
            for part in output.outputs:
                written = said[part.index].take(part)
                self._metrics.wrote(request, written, first=first and written > 0)
                first = first and not written
        return [said[index].answer() for index in range(request.answers)]


class _Said:
    """One answer as vLLM tells it: each output has all that was said so far."""

    def __init__(self, request: Request, index: int) -> None:
        self._request = request
        self._index = index
        self._part: Any = None
        self._told = 0
        self._characters = 0

    def take(self, part: Any) -> int:
        """Tell what is new; how many tokens that is."""
        self._part = part
        fresh = len(part.token_ids) - self._told
        text = part.text[self._characters :]
        scored = _scores(self._request, part, self._told)
        self._told, self._characters = len(part.token_ids), len(part.text)
        if self._request.on_piece is not None:
            for at in range(fresh):
                words = text if at == fresh - 1 else ""
                self._request.on_piece(Piece(self._index, words, scored[at] if scored else None))
            if part.finish_reason is not None:
                reason = "length" if part.finish_reason == "length" else "stop"
                self._request.on_piece(Piece(self._index, "", finish_reason=reason))  # type: ignore[arg-type]
        return fresh

    def answer(self) -> Answer:
        """The whole answer."""
        part = self._part
        reason = "length" if part.finish_reason == "length" else "stop"
        scored = tuple(_scores(self._request, part, 0))
        return Answer(part.text, tuple(part.token_ids), reason, scored)  # type: ignore[arg-type]


def _scores(request: Request, part: Any, start: int) -> list[ScoredToken]:
    if request.likeliest is None or part.logprobs is None:
        return []
    found = []
    for token, scores in zip(part.token_ids[start:], part.logprobs[start:], strict=True):
        likeliest = sorted(scores.items(), key=lambda item: -item[1].logprob)[: request.likeliest]
        others = tuple(TokenScore(int(one), float(score.logprob)) for one, score in likeliest)
        found.append(ScoredToken(TokenScore(int(token), float(scores[token].logprob)), others))
    return found


def _sampling(library: Any, request: Request) -> Any:
    decoding, shaping = request.decoding, request.shaping
    settings: dict[str, Any] = {}
    if shaping.schema is not None:
        settings["structured_outputs"] = library.sampling_params.StructuredOutputsParams(json=dict(shaping.schema))
    return library.SamplingParams(
        n=request.answers,
        max_tokens=decoding.max_new_tokens,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        seed=decoding.seed,
        stop=list(decoding.stop) or None,
        logprobs=request.likeliest,
        presence_penalty=shaping.presence_penalty,
        frequency_penalty=shaping.frequency_penalty,
        logit_bias=dict(shaping.bias) or None,
        **settings,
    )


def _library() -> Any:
    try:
        import vllm
        import vllm.lora.request
        import vllm.sampling_params
    except ImportError as error:
        raise UsageError(
            "vLLM is not installed",
            code="usage.missing_extra",
            value="vllm",
            hint="pip install vllm, on a machine with a GPU",
        ) from error
    return vllm
