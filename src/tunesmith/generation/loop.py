"""Generate many answers at once, or stream one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import DataError, Problem, Stopped
from tunesmith.generation.decoding import Decoding, Generation, TokenPiece, resolve_stop_token_ids
from tunesmith.generation.forward import new_rows, share_prefix, uses_slots
from tunesmith.generation.plan import (
    Batch,
    changing_rotation_limit,
    common_prefix_length,
    plan_batches,
)
from tunesmith.generation.row import Row, room_of
from tunesmith.generation.sampling import choose
from tunesmith.generation.slots import KeyValue
from tunesmith.models.memory import telling_memory_errors


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    tokens_per_batch: int,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Generation]:
    """Continue every prompt; the answers come in the order of the prompts.

    Rows are sorted by length and batched; a finished row leaves its batch. What all prompts begin with is computed
    once. Greedy tokens are those of one prompt at a time.

    Args:
        model: A causal LM of Transformers, or one wrapped by PEFT. Its mode and attention are left as they were.
        tokenizer: The model's tokenizer.
        prompts: Token ids of each prompt, none empty.
        decoding: How to continue.
        tokens_per_batch: The most tokens held at once beside the shared prefix: rows x (longest own prompt + new
            tokens). A single row may exceed it.
        on_progress: Called with (answers done, answers in all).
        should_stop: Asked before every step.

    Raises:
        DataError: Prompts that are empty or leave no room in the model's context; all of them are named.
        ModelError: A PEFT method that puts tokens of its own before the prompt.
        ResourceError: The device has not enough memory.
        Stopped: ``should_stop`` said so.
    """
    _refuse_unusable(model, prompts)
    rows = [Row.of(index, prompt, model, tokenizer, decoding) for index, prompt in enumerate(prompts)]
    session = _Session(model, decoding, resolve_stop_token_ids(model, tokenizer, decoding), should_stop)
    done = 0
    with _evaluating(model), _enough_memory(prompts, decoding):
        for batch, prefix in _batches(model, rows, tokens_per_batch):
            for finished, _ in _run(session, [rows[index] for index in batch.rows], batch, prefix):
                done += len(finished)
                if finished and on_progress is not None:
                    on_progress(done, len(rows))
    return [row.result() for row in rows]


def stream(
    model: Any,
    tokenizer: Any,
    prompt: Sequence[int],
    decoding: Decoding,
    *,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[TokenPiece]:
    """Continue one prompt, piece by piece; the last piece has the finish reason and the token counts.

    The texts of all pieces together are the text that :func:`generate` gives. Closing the iterator ends the work.

    Raises:
        DataError, ModelError, ResourceError, Stopped: As :func:`generate`, when the first piece is asked for.
    """
    _refuse_unusable(model, [prompt])
    row = Row.of(0, prompt, model, tokenizer, decoding)
    session = _Session(model, decoding, resolve_stop_token_ids(model, tokenizer, decoding), should_stop)
    batch = Batch(rows=(0,), prefix_length=0, alone=_outgrows(model, row))
    with _evaluating(model), _enough_memory([prompt], decoding):
        for _, pieces in _run(session, [row], batch, None):
            for piece in pieces:
                yield TokenPiece(piece, row.tokens[-1])
    yield TokenPiece(
        row.last_text,
        None,
        row.finish_reason,
        prompt_tokens=len(prompt),
        completion_tokens=len(row.tokens),
    )


def shares_prefix(model: Any) -> bool:
    """Whether prompts' common beginning is computed once for this model; False where that is not tested to be exact."""
    return uses_slots(model)


@dataclass(frozen=True)
class _Session:
    model: Any
    decoding: Decoding
    stop_token_ids: frozenset[int]
    should_stop: Callable[[], bool] | None


def _batches(model: Any, rows: list[Row], tokens_per_batch: int) -> Iterator[tuple[Batch, list[KeyValue] | None]]:
    """The batches to run, each with the prefix its rows share."""
    alone = [row.index for row in rows if _outgrows(model, row)]
    together = [row for row in rows if row.index not in set(alone)]
    length = common_prefix_length([row.prompt for row in together]) if uses_slots(model) else 0
    prefix = share_prefix(model, together[0].prompt[:length]) if length else None
    sizes = {row.index: (len(row.prompt) - length, row.most_tokens) for row in together}
    for members in plan_batches(sizes, tokens_per_batch):
        yield Batch(members, length, alone=False), prefix
    for index in alone:
        yield Batch((index,), 0, alone=True), None


def _run(
    session: _Session, rows: list[Row], batch: Batch, prefix: list[KeyValue] | None
) -> Iterator[tuple[list[Row], list[str]]]:
    """Run one batch to its end; after each step the rows that finished and the texts that came."""
    for row in rows:
        row.shared = batch.prefix_length
    state = new_rows(session.model, [row.prompt[batch.prefix_length :] for row in rows], prefix)
    limit = changing_rotation_limit(session.model) if batch.alone else None
    inputs: list[int] | None = None
    while rows:
        if session.should_stop is not None and session.should_stop():
            raise Stopped("generation was stopped", code="generation.stopped")
        if inputs is None:
            scores = state.start()
        elif limit is not None and len(rows[0].prompt) + len(rows[0].tokens) == limit + 1:
            # Beyond this length the model rotates every position differently, so all keys are made anew.
            state = new_rows(session.model, [[*rows[0].prompt, *rows[0].tokens]], None)
            scores = state.start()
        else:
            scores = state.step(inputs)
        chosen = choose(scores, session.decoding, [row.random for row in rows])
        texts = [row.take(token, session.stop_token_ids) for row, token in zip(rows, chosen, strict=True)]
        going = [at for at, row in enumerate(rows) if row.finish_reason is None]
        yield [row for row in rows if row.finish_reason is not None], [text for text in texts if text is not None]
        if len(going) < len(rows):
            rows = [rows[at] for at in going]
            if rows:
                state.keep(going)
        inputs = [row.tokens[-1] for row in rows]


def _outgrows(model: Any, row: Row) -> bool:
    limit = changing_rotation_limit(model)
    return limit is not None and len(row.prompt) + row.most_tokens > limit


def _refuse_unusable(model: Any, prompts: Sequence[Sequence[int]]) -> None:
    context = room_of(model)
    found = [
        Problem("generation.bad_prompt", message, place=f"prompt {index + 1}", value=f"{len(prompt)} tokens")
        for index, prompt in enumerate(prompts)
        for bad, message in (
            (len(prompt) == 0, "is empty"),
            (
                context is not None and len(prompt) >= context,
                f"leaves no room in the model's context of {context} tokens",
            ),
        )
        if bad
    ]
    if found:
        raise DataError("some prompts cannot be continued", problems=found)


def _enough_memory(prompts: Sequence[Sequence[int]], decoding: Decoding) -> AbstractContextManager[None]:
    return telling_memory_errors(
        "not enough memory to continue prompts",
        value=f"up to {max(map(len, prompts), default=0)} tokens, {decoding.max_new_tokens} new ones",
        hint="ask for fewer new tokens, shorten the prompts, or take a smaller model",
    )


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Dropout off, and back to what it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
