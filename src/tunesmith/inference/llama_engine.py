"""GGUF files under llama.cpp, which batches and samples itself; a prebuilt library brings it into this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError, WorkerError, missing_extra
from tunesmith.inference.metrics import Metrics
from tunesmith.inference.requests import Answer, BusyError, Piece, Request, ScoredToken, TokenScore
from tunesmith.wire.serving import ServedModel

CONTEXT_TOKENS_A_ROW = 4096
_QUIET = -1


class LlamaEngine:
    """See :class:`tunesmith.inference.requests.Engine`. Requests are taken in the order in which they come.

    Args:
        served: ``.gguf`` files by name.
        metrics: Counts what happens.
        rows_at_once: The most answers that are written at once.
        most_waiting: The most requests that wait.
        threads: Of llama.cpp.
    """

    def __init__(
        self,
        served: Mapping[str, ServedModel],
        metrics: Metrics,
        *,
        rows_at_once: int,
        most_waiting: int,
        threads: int,
    ) -> None:
        self._served = served
        self._metrics = metrics
        self._rows_at_once = rows_at_once
        self._most = rows_at_once + most_waiting
        self._threads = threads
        self._servers: dict[str, Any] = {}
        self._workers = ThreadPoolExecutor(rows_at_once, thread_name_prefix="llama.cpp")
        self._open = 0
        self._lock = threading.Lock()

    def start(self) -> None:
        """Load the files.

        Raises:
            ModelError: One cannot be loaded.
            UsageError: The library is not installed.
        """
        for name, model in self._served.items():
            self._servers[name] = self._load(model.folder)

    def submit(self, request: Request) -> None:
        """As in the protocol."""
        with self._lock:
            if self._open >= self._most:
                raise BusyError
            self._open += 1
        self._workers.submit(self._answer, request)

    def close(self) -> None:
        """Answer what was taken, then unload."""
        self._workers.shutdown(wait=True)
        self._servers.clear()

    def _load(self, path: Path) -> Any:
        try:
            import xllamacpp
        except ImportError as error:
            raise missing_extra("llama.cpp is not installed", "gguf", value="xllamacpp") from error
        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_parallel = self._rows_at_once
        settings.n_ctx = CONTEXT_TOKENS_A_ROW * self._rows_at_once
        settings.kv_unified = True
        settings.cpuparams.n_threads = self._threads
        settings.cpuparams_batch.n_threads = self._threads
        settings.verbosity = _QUIET
        try:
            return xllamacpp.Server(settings)
        except Exception as error:
            raise ModelError(
                "the GGUF file cannot be loaded", code="model.cannot_load", place=str(path), value=str(error)[:300]
            ) from error

    def _answer(self, request: Request) -> None:
        request.begun.set()
        self._metrics.began(request)
        how = "failed"
        try:
            answers = [self._one(request, index) for index in range(request.answers)]
            how = "cancelled" if request.cancelled.is_set() else "answered"
            if not request.done.cancelled():
                request.done.set_result(answers)
        except Exception as error:
            if not request.done.cancelled():
                request.done.set_exception(error)
        finally:
            self._metrics.ended(request, how)
            with self._lock:
                self._open -= 1

    def _one(self, request: Request, index: int) -> Answer:
        made = _Made(request, index, self._metrics)
        self._servers[request.model].handle_completions(json.dumps(_body(request, index)), made.take)
        return made.answer()


class _Made:
    """One answer as llama.cpp writes it."""

    def __init__(self, request: Request, index: int, metrics: Metrics) -> None:
        self._request = request
        self._index = index
        self._metrics = metrics
        self._text = ""
        self._ids: list[int] = []
        self._scored: list[ScoredToken] = []
        self._reason: str | None = None
        self._failure: str | None = None

    def take(self, chunk: str | Mapping[str, Any]) -> bool:
        """A chunk has come; True asks the library to stop."""
        data = json.loads(chunk) if isinstance(chunk, str) else chunk
        if "choices" not in data:
            self._failure = str(data.get("error", data))[:300]
            return True
        for choice in data["choices"]:
            tokens = (choice.get("logprobs") or {}).get("content") or []
            scored = [_scored(one, self._request.likeliest or 0) for one in tokens]
            self._metrics.wrote(self._request, len(scored), first=bool(scored) and not self._ids)
            self._ids += [one.chosen.token_id for one in scored]
            self._tell(str(choice.get("text") or ""), scored)
            self._reason = choice.get("finish_reason") or self._reason
        return self._request.cancelled.is_set()

    def answer(self) -> Answer:
        """The whole answer.

        Raises:
            WorkerError: llama.cpp refused or failed.
        """
        if self._failure is not None:
            raise WorkerError("llama.cpp failed", code="inference.llama", value=self._failure)
        reason = "length" if self._reason == "length" else "stop"
        if self._request.on_piece is not None:
            self._request.on_piece(Piece(self._index, "", finish_reason=reason))  # type: ignore[arg-type]
        return Answer(self._text, tuple(self._ids), reason, tuple(self._scored))  # type: ignore[arg-type]

    def _tell(self, text: str, scored: list[ScoredToken]) -> None:
        self._text += text
        wants = self._request.likeliest is not None
        self._scored += scored if wants else []
        if self._request.on_piece is None:
            return
        for at, one in enumerate(scored):
            words = text if at == len(scored) - 1 else ""
            self._request.on_piece(Piece(self._index, words, one if wants else None))
        if text and not scored:
            self._request.on_piece(Piece(self._index, text))


def _scored(token: Mapping[str, Any], likeliest: int) -> ScoredToken:
    others = [TokenScore(int(one["id"]), float(one["logprob"])) for one in token.get("top_logprobs", [])]
    return ScoredToken(TokenScore(int(token["id"]), float(token["logprob"])), tuple(others[:likeliest]))


def _body(request: Request, index: int) -> dict[str, Any]:
    """A request in llama.cpp's terms; every token is told with its score, which also tells its number."""
    decoding, shaping = request.decoding, request.shaping
    body: dict[str, Any] = {
        "prompt": request.prompt,
        "n_predict": decoding.max_new_tokens,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        # The library's own defaults would cut the choice further than was asked for.
        "top_k": 0,
        "min_p": 0.0,
        "seed": (decoding.seed + index) % 2**32,
        "stop": list(decoding.stop),
        "n_probs": max(1, request.likeliest or 0),
        "presence_penalty": shaping.presence_penalty,
        "frequency_penalty": shaping.frequency_penalty,
        # The library counts the end of the prompt too.
        "repeat_last_n": decoding.max_new_tokens if shaping.presence_penalty or shaping.frequency_penalty else 0,
        "stream": True,
        "cache_prompt": True,
    }
    if shaping.bias:
        body["logit_bias"] = [[token, bias] for token, bias in shaping.bias.items()]
    if shaping.schema is not None:
        body["json_schema"] = dict(shaping.schema)
    return body
