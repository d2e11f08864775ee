"""The answers of one model that are being written, all together: prompts join between two steps and leave when done."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from tunesmith.generation.pools import Beginning, Pool
from tunesmith.generation.row import Row
from tunesmith.inference.batching.next_token import Wishes, next_tokens
from tunesmith.inference.constraints import Grammars
from tunesmith.inference.requests import Answer, Piece, Request, ScoredToken
from tunesmith.models.memory import telling_memory_errors

# Rows of the cache are as long as the longest; so much longer than needed may they be.
_SLACK_TOKENS = 64
_numbers = itertools.count()


@dataclass(frozen=True)
class Writer:
    """A model that continues prompts, and what is known of its tokens.

    ``make_pool`` makes a place for its rows; ``context`` is the most tokens of prompt and answer together, None for no
    limit; ``vocabulary`` how many scores it gives; ``cache_tokens`` for how many tokens there is memory.
    """

    make_pool: Callable[[], Pool]
    tokenizer: Any
    stop_token_ids: frozenset[int]
    context: int | None
    vocabulary: int
    cache_tokens: int


@dataclass
class Part:
    """One answer of a request in the making."""

    key: int
    index: int
    row: Row
    wishes: Wishes
    request: Request
    scored: list[ScoredToken] = field(default_factory=list)

    def tell(self, piece: Piece) -> None:
        """Hand a piece to whoever listens."""
        if self.request.on_piece is not None:
            self.request.on_piece(piece)

    def answer(self) -> Answer:
        """The whole of a finished one."""
        assert self.row.finish_reason is not None
        return Answer(self.row.text.text, tuple(self.row.tokens), self.row.finish_reason, tuple(self.scored))


@dataclass
class Taken:
    """A request that is being answered: its parts, those that are finished among them; or what it failed with."""

    request: Request
    adapter: Any
    parts: list[Part]
    failure: Exception | None = None

    @property
    def is_done(self) -> bool:
        """Whether every part is."""
        return all(part.row.finish_reason is not None for part in self.parts)


@dataclass
class _Reading:
    beginning: Beginning
    parts: list[Part]
    taken: Taken

    @property
    def tokens(self) -> int:
        """How many are read."""
        return len(self.parts[0].row.prompt) + len(self.parts[0].row.tokens)


class Batch:
    """One model's answers; used by one thread.

    Args:
        writer: The model.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.pool = writer.make_pool()
        self._grammars = Grammars(writer.tokenizer, sorted(writer.stop_token_ids), writer.vocabulary)
        self._reading: deque[_Reading] = deque()
        self._resting: deque[_Reading] = deque()
        self._writing: list[tuple[Part, Taken, int]] = []

    @property
    def rows(self) -> int:
        """Answers that are being written or read for."""
        read = sum(len(reading.parts) for reading in [*self._reading, *self._resting])
        return read + len(self._writing)

    def has_room(self, prompt_tokens: int, answers: int) -> bool:
        """Whether there is memory for so many more answers to a prompt of so many tokens."""
        if not self.rows:
            return True
        if self._resting:
            # Those that had to make room come first.
            return False
        longest = max([self._longest(), prompt_tokens, *(reading.tokens for reading in self._reading)])
        return (self.rows + answers) * (longest + _SLACK_TOKENS) <= self._cache_tokens

    def admit(self, request: Request, adapter: Any) -> Taken:
        """Begin to answer a request.

        Raises:
            UsageError: The schema is one that no answer can be kept to.
        """
        parts = [self._part(request, index) for index in range(request.answers)]
        taken = Taken(request, adapter, parts)
        self._reading.append(_Reading(self.pool.begin(request.prompt, adapter), parts, taken))
        return taken

    def advance(self) -> list[Taken]:
        """Read a piece of one prompt and write a token of every answer; the requests that are done with that.

        A request that fails by itself is among those, with its failure. Whatever is raised concerns all of them.
        """
        with telling_memory_errors("not enough memory to go on", hint="ask for fewer tokens, or for less at once"):
            done = self._read_on() + self._write_on()
        return list({id(taken): taken for taken in done}.values())

    def drop(self, taken: Taken) -> None:
        """Stop a request's answers."""
        for part, whose, _ in self._writing:
            if whose is taken:
                self.pool.leave(part.key)
        self._writing = [entry for entry in self._writing if entry[1] is not taken]
        self._reading = deque(one for one in self._reading if one.taken is not taken)
        self._resting = deque(one for one in self._resting if one.taken is not taken)

    def clear(self) -> None:
        """Drop everything after a failure, and begin with an empty cache."""
        self._reading, self._resting, self._writing = deque(), deque(), []
        self.pool.clear()

    @property
    def _cache_tokens(self) -> int:
        return self.writer.cache_tokens

    def _part(self, request: Request, index: int) -> Part:
        schema = request.shaping.schema
        matcher = None if schema is None else self._grammars.matcher(schema)
        row = Row.within(self.writer.context, index, request.prompt, self.writer.tokenizer, request.decoding)
        wishes = Wishes(request.decoding, request.shaping, request.likeliest, matcher)
        return Part(next(_numbers), index, row, wishes, request)

    def _longest(self) -> int:
        return max((tokens for _, _, tokens in self._writing), default=0)

    def _read_on(self) -> list[Taken]:
        if not self._reading and self._resting and self._may_return(self._resting[0]):
            self._reading.append(self._resting.popleft())
        if not self._reading:
            return []
        reading = self._reading.popleft()
        try:
            with telling_memory_errors("not enough memory to read the prompt", hint="shorten it"):
                scores = reading.beginning.advance()
        except Exception as error:
            # What is read stands beside the others' rows, and has not touched them.
            reading.taken.failure = error
            self.drop(reading.taken)
            return [reading.taken]
        if scores is None:
            # Prompts take turns, so that a short one does not wait for all of a long one.
            self._reading.append(reading)
            return []
        self.pool.join(reading.beginning, [part.key for part in reading.parts])
        length = reading.tokens
        self._writing += [(part, reading.taken, length) for part in reading.parts]
        return self._choose(scores.expand(len(reading.parts), -1), [part.key for part in reading.parts])

    def _write_on(self) -> list[Taken]:
        while len(self._writing) > 1 and not self._fits(len(self._writing)):
            self._let_rest()
        if not self._writing:
            return []
        keys = [part.key for part, _, _ in self._writing]
        scores = self.pool.step(keys, [part.row.tokens[-1] for part, _, _ in self._writing])
        self._writing = [(part, taken, tokens + 1) for part, taken, tokens in self._writing]
        return self._choose(scores, keys)

    def _choose(self, scores: torch.Tensor, keys: list[int]) -> list[Taken]:
        wanted = set(keys)
        entries = [entry for entry in self._writing if entry[0].key in wanted]
        parts = [part for part, _, _ in entries]
        if any(not part.wishes.shaping.is_plain for part in parts):
            scores = scores.clone()
        chosen = next_tokens(scores, [part.row for part in parts], [part.wishes for part in parts])
        for (part, taken, _), found in zip(entries, chosen, strict=True):
            if isinstance(found, Exception):
                taken.failure = found
            else:
                self._take(part, *found)
        failed = [taken for _, taken, _ in entries if taken.failure is not None]
        for taken in failed:
            self.drop(taken)
        finished = [entry for entry in entries if entry[0].row.finish_reason and entry[1].failure is None]
        for part, _, _ in finished:
            self.pool.leave(part.key)
        gone = {part.key for part, _, _ in finished}
        self._writing = [entry for entry in self._writing if entry[0].key not in gone]
        return failed + [taken for _, taken, _ in finished if taken.is_done]

    def _take(self, part: Part, token: int, scored: ScoredToken | None) -> None:
        text = part.row.take(token, self.writer.stop_token_ids)
        if text is not None:
            if scored is not None:
                part.scored.append(scored)
            part.tell(Piece(part.index, text, scored))
        if part.row.finish_reason is not None:
            part.tell(Piece(part.index, part.row.last_text, finish_reason=part.row.finish_reason))

    def _fits(self, rows: int) -> bool:
        return rows * (self._longest() + 1) <= self._cache_tokens

    def _may_return(self, resting: _Reading) -> bool:
        longest = max(self._longest(), resting.tokens)
        return not self._writing or (len(self._writing) + 1) * (longest + _SLACK_TOKENS) <= self._cache_tokens

    def _let_rest(self) -> None:
        """Take the youngest answer's memory; what it has is read again as part of its prompt once there is room.

        The last to rest is the oldest of them, and the first to return.
        """
        part, taken, _ = self._writing.pop()
        self.pool.leave(part.key)
        beginning = self.pool.begin([*part.row.prompt, *part.row.tokens], taken.adapter)
        self._resting.appendleft(_Reading(beginning, [part], taken))
