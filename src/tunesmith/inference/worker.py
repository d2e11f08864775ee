"""The one thread that owns the model: it takes jobs in turn and answers waiting ones together where it can."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from tunesmith.errors import Stopped
from tunesmith.generation import Decoding, Generation, TokenPiece, generate, stream
from tunesmith.models.adapters import without_adapter

_ROWS_AT_ONCE = 32
_TOKENS_PER_BATCH = 32_768


@dataclass(frozen=True)
class Job:
    """One prompt to continue.

    ``on_piece`` is called from the worker's thread for each piece of a streamed answer; without it the answer is the
    result of ``done``. Setting ``cancelled`` ends the work at the next token.
    """

    model: str
    prompt: list[int]
    decoding: Decoding
    on_piece: Callable[[TokenPiece], None] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    done: Future[Generation | None] = field(default_factory=Future)


class GenerationWorker:
    """Runs jobs one after the other in a thread of its own.

    Args:
        model: A causal LM, wrapped by PEFT where ``adapters`` names any.
        tokenizer: Its tokenizer, used by this thread alone.
        adapters: For each served name the adapter to use, None for the model without any.
    """

    def __init__(self, model: Any, tokenizer: Any, adapters: Mapping[str, str | None]) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._adapters = adapters
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="generation", daemon=True)

    def start(self) -> None:
        """Begin to take jobs."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Put a job in the queue; whatever happens to it arrives at ``job.done``."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Finish the jobs that wait, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            try:
                self._answer(jobs)
            except Stopped as stopped:
                _fail(jobs, stopped)
            except Exception as error:
                _fail(jobs, error)

    def _next(self) -> list[Job]:
        """The next job, and with it all waiting ones that one batch can answer."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            first = self._waiting.popleft()
            jobs = [first]
            # A sampled answer depends on its place in a batch, so only greedy ones share one.
            if first.on_piece is None and first.decoding.temperature == 0:
                alike = [
                    job
                    for job in self._waiting
                    if job.on_piece is None and (job.model, job.decoding) == (first.model, first.decoding)
                ]
                jobs += alike[: _ROWS_AT_ONCE - 1]
                for job in jobs[1:]:
                    self._waiting.remove(job)
            return jobs

    def _answer(self, jobs: list[Job]) -> None:
        first = jobs[0]
        with self._using(self._adapters[first.model]):
            if first.on_piece is not None:
                pieces = stream(
                    self._model, self._tokenizer, first.prompt, first.decoding, should_stop=first.cancelled.is_set
                )
                for piece in pieces:
                    first.on_piece(piece)
                first.done.set_result(None)
                return
            answers = generate(
                self._model,
                self._tokenizer,
                [job.prompt for job in jobs],
                first.decoding,
                tokens_per_batch=_TOKENS_PER_BATCH,
                should_stop=lambda: all(job.cancelled.is_set() for job in jobs),
            )
        for job, answer in zip(jobs, answers, strict=True):
            job.done.set_result(answer)

    @contextmanager
    def _using(self, adapter: str | None) -> Iterator[None]:
        has_adapters = any(name is not None for name in self._adapters.values())
        if adapter is not None:
            self._model.set_adapter(adapter)
        with without_adapter(self._model) if has_adapters and adapter is None else nullcontext():
            yield


def _fail(jobs: list[Job], error: Exception) -> None:
    for job in jobs:
        if not job.done.done():
            job.done.set_exception(error)
