"""Rows that join and leave while others go on get the tokens that they would get alone."""

from __future__ import annotations

import gc
import random
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from saved_adapters import load_double, save_adapter, with_adapter
from tiny_models import tiny_causal_model, tiny_tokenizer

from tunesmith.generation import Decoding, generate
from tunesmith.generation.forward import SLOT_FAMILIES
from tunesmith.generation.pools import LonePool, SharedPool
from tunesmith.inference.batching.batch import Batch, Taken, Writer
from tunesmith.inference.batching.writers import make_writer
from tunesmith.inference.requests import Answer, Piece, Request
from tunesmith.models.low_rank_adapters import LowRankAdapter, read_low_rank

# PEFT asks for a property by a name that Transformers has just deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@dataclass(frozen=True)
class Place:
    """A base on disk with adapters, and what serves them."""

    base: Path
    saved: Mapping[str, Path]
    writer: Writer
    adapters: Mapping[str, LowRankAdapter | None]
    loaded: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, family: str) -> Place:
        base = folder / "base"
        tokenizer = tiny_tokenizer(base)
        tiny_causal_model(family, base, **({"tie_word_embeddings": False} if family.startswith("gemma") else {}))
        saved = {f"rank {rank}": save_adapter(base, folder / str(rank), seed=rank, r=rank) for rank in (2, 8)}
        model = load_double(base).eval()
        adapters: dict[str, LowRankAdapter | None] = {
            name: read_low_rank(place, model, dtype=torch.float64) for name, place in saved.items()
        }
        return cls(base, saved, make_writer(model, tokenizer), {"base": None, **adapters})

    def alone(self, request: Request) -> list[tuple[int, ...]]:
        """The tokens of a request that has the model to itself."""
        if request.model not in self.loaded:
            self.loaded[request.model] = with_adapter(self.base, self.saved.get(request.model))
        model = self.loaded[request.model]
        prompts = [request.prompt] * request.answers
        answers = generate(model, self.writer.tokenizer, prompts, request.decoding, tokens_per_batch=10_000)
        return [answer.token_ids for answer in answers]


# Windows and soft caps; and a family whose rows are written one after the other.
FAST = ("gemma2", "stablelm")
FAMILIES = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in (*sorted(SLOT_FAMILIES), "stablelm")
]


@pytest.fixture(scope="module", params=FAMILIES)
def any_family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place.make(tmp_path_factory.mktemp("batch"), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place.make(tmp_path_factory.mktemp("batch"), "llama")


def some_requests(seed: int, count: int, longest: int = 40, **changes: Any) -> list[Request]:
    """Greedy ones and sampled ones, some of which want several answers, to prompts of all lengths."""
    source = random.Random(seed)
    found = []
    for at in range(count):
        prompt = [source.randrange(3, 400) for _ in range(source.randrange(1, longest))]
        sampled = at % 3 == 2
        decoding = Decoding(
            max_new_tokens=source.randrange(1, 20), temperature=0.9 if sampled else 0.0, top_p=0.95, seed=at
        )
        wanted = {"answers": 3 if sampled and at % 2 else 1, **changes}
        found.append(Request(("base", "rank 2", "rank 8")[source.randrange(3)], prompt, decoding, **wanted))
    return found


def drive(
    batch: Batch,
    adapters: Mapping[str, LowRankAdapter | None],
    requests: Sequence[Request],
    *,
    seed: int = 0,
    unwanted: frozenset[int] = frozenset(),
) -> dict[int, list[Answer]]:
    """Let requests join at random steps and drop some of them under way; the answers by the requests' numbers."""
    source = random.Random(seed)
    waiting = deque(enumerate(requests))
    going: dict[int, Taken] = {}
    answers: dict[int, list[Answer]] = {}
    while waiting or going:
        while waiting and source.random() < 0.5 and batch.has_room(len(waiting[0][1].prompt), waiting[0][1].answers):
            number, request = waiting.popleft()
            going[number] = batch.admit(request, adapters[request.model])
        for number in [one for one in going if one in unwanted and source.random() < 0.5]:
            batch.drop(going.pop(number))
        for taken in batch.advance():
            (number,) = [one for one, known in going.items() if known is taken]
            assert going.pop(number).failure is None
            answers[number] = [part.answer() for part in taken.parts]
    assert batch.rows == 0
    assert batch.pool.memory_bytes == 0
    return answers


def test_rows_that_come_and_go_get_the_tokens_of_each_alone(any_family: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # Long prompts are read in pieces, between which the others write.
    monkeypatch.setattr("tunesmith.generation.pools.TOKENS_AT_ONCE", 7)
    requests = some_requests(1, 10)
    answers = drive(Batch(any_family.writer), any_family.adapters, requests)
    for number, request in enumerate(requests):
        assert [answer.token_ids for answer in answers[number]] == any_family.alone(request), number
    assert len({answer.token_ids for found in answers.values() for answer in found}) > len(requests)


class Watched:
    """A pool that counts its rows and the prompts that it is given, and fails when told to."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.begun = 0
        self.most_tokens = 0
        self._tokens: dict[int, int] = {}
        self.fails: Callable[[str, Any], bool] = lambda _when, _what: False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def begin(self, prompt: Sequence[int], adapter: Any) -> Any:
        self.begun += 1
        beginning = self._pool.begin(prompt, adapter)
        beginning.prompt_tokens = len(prompt)
        if self.fails("read", list(prompt)):
            beginning.advance = self._fail
        return beginning

    def join(self, beginning: Any, keys: Sequence[int]) -> None:
        self._tokens.update(dict.fromkeys(keys, beginning.prompt_tokens))
        self._pool.join(beginning, keys)

    def step(self, keys: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        if self.fails("step", list(keys)):
            self._fail()
        for key in keys:
            self._tokens[key] += 1
        self.most_tokens = max(self.most_tokens, len(self._tokens) * max(self._tokens.values()))
        return self._pool.step(keys, tokens)

    def leave(self, key: int) -> None:
        del self._tokens[key]
        self._pool.leave(key)

    def clear(self) -> None:
        self._tokens = {}
        self._pool.clear()

    def _fail(self) -> None:
        raise RuntimeError("as the test asked")


def watched(writer: Writer, **changes: Any) -> tuple[Batch, Watched]:
    batch = Batch(replace(writer, make_pool=lambda: Watched(writer.make_pool()), **changes))
    return batch, batch.pool  # type: ignore[return-value]


def test_rows_that_must_rest_for_lack_of_memory_get_the_same_tokens(
    any_family: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = some_requests(2, 9, longest=12)
    roomy, counted = watched(any_family.writer)
    expected = drive(roomy, any_family.adapters, requests)
    assert counted.begun == len(requests)
    # Less than the slack that is asked for before a request is let in: the memory runs out under way.
    tight, pool = watched(any_family.writer, cache_tokens=40)
    monkeypatch.setattr("tunesmith.inference.batching.batch._SLACK_TOKENS", 0)
    found = drive(tight, any_family.adapters, requests)
    assert found == expected
    assert pool.begun > len(requests)
    longest = max(len(request.prompt) + request.decoding.max_new_tokens for request in requests)
    assert pool.most_tokens <= max(40, longest)


def test_rows_that_are_dropped_leave_and_the_others_go_on(llama: Place) -> None:
    requests = some_requests(3, 12)
    unwanted = frozenset({0, 3, 5, 8})
    answers = drive(Batch(llama.writer), llama.adapters, requests, unwanted=unwanted)
    kept = set(range(12)) - unwanted
    assert answers.keys() >= kept
    for number in kept:
        assert [answer.token_ids for answer in answers[number]] == llama.alone(requests[number])


def test_pieces_put_together_are_the_answer(llama: Place) -> None:
    pieces: list[Piece] = []
    (request,) = some_requests(4, 1, answers=2, on_piece=pieces.append)
    request = replace(request, decoding=Decoding(max_new_tokens=9, temperature=1.0, seed=1), likeliest=1)
    (answers,) = drive(Batch(llama.writer), llama.adapters, [request]).values()
    for index, answer in enumerate(answers):
        own = [piece for piece in pieces if piece.index == index]
        assert "".join(piece.text for piece in own) == answer.text
        assert [piece.scored.chosen.token_id for piece in own if piece.scored] == list(answer.token_ids)
        assert [piece.finish_reason for piece in own] == [None] * len(answer.token_ids) + [answer.finish_reason]


def test_a_prompt_that_cannot_be_read_concerns_its_own_request_alone(llama: Place) -> None:
    batch, pool = watched(llama.writer)
    good, bad = some_requests(5, 2, answers=2)
    bad = replace(bad, prompt=[7, 7, 7])
    pool.fails = lambda when, what: when == "read" and what == [7, 7, 7]
    going = [batch.admit(one, llama.adapters[one.model]) for one in (good, bad)]
    ended: list[Taken] = []
    while batch.rows:
        ended += batch.advance()
    assert ended == [going[1], going[0]] or ended == going
    assert going[0].failure is None
    assert isinstance(going[1].failure, RuntimeError)
    assert [part.answer().token_ids for part in going[0].parts] == llama.alone(good)


def test_a_schema_that_outgrows_its_library_concerns_its_own_request_alone(llama: Place) -> None:
    batch = Batch(llama.writer)
    good, bad = some_requests(6, 2)
    bad = replace(bad, shaping=replace(bad.shaping, schema={"type": "string"}))
    going = [batch.admit(one, llama.adapters[one.model]) for one in (good, bad)]
    # A token that no JSON text has: the matcher is then in a state that it never leaves.
    matcher = going[1].parts[0].wishes.matcher
    assert matcher is not None
    matcher.take(5)
    while batch.rows:
        batch.advance()
    assert going[0].failure is None
    assert "schema" in str(going[1].failure)
    assert [part.answer().token_ids for part in going[0].parts] == llama.alone(good)


def test_after_a_failed_step_the_batch_starts_afresh(llama: Place) -> None:
    batch, pool = watched(llama.writer)
    requests = some_requests(7, 3)
    for request in requests:
        batch.admit(request, llama.adapters[request.model])
    batch.advance()
    pool.fails = lambda when, _: when == "step"
    with pytest.raises(RuntimeError):
        batch.advance()
    batch.clear()
    assert batch.rows == 0
    pool.fails = lambda *_: False
    answers = drive(batch, llama.adapters, requests)
    assert [[one.token_ids for one in answers[at]] for at in range(3)] == [llama.alone(one) for one in requests]


def test_failures_leave_nothing_behind_on_the_model(llama: Place) -> None:
    model = load_double(llama.base).eval()
    batch = Batch(make_writer(model, llama.writer.tokenizer))
    adapters = {name: read_low_rank(place, model, dtype=torch.float64) for name, place in llama.saved.items()}
    counts = []
    for seed in range(3):
        drive(batch, {"base": None, **adapters}, some_requests(seed, 5))
        batch.clear()
        counts.append(sum(len(module._forward_hooks) for module in model.modules()))
    assert counts == [counts[0]] * 3
    assert counts[0] > 0


def test_requests_wait_while_others_rest(llama: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.inference.batching.batch._SLACK_TOKENS", 0)
    batch, pool = watched(llama.writer, cache_tokens=24)
    endless = Decoding(max_new_tokens=40, stop_token_ids=())
    for _ in range(3):
        assert batch.has_room(5, 1)
        batch.admit(Request("base", [5, 6, 7, 8, 9], endless), None)
    while pool.begun == 3:
        assert batch.advance() == []
    # The one that rests stands first; a new one would take the memory that it waits for.
    assert not batch.has_room(1, 1)


def test_memory_is_that_of_the_rows_there_are_and_not_of_all_there_were(llama: Place) -> None:
    pool = llama.writer.make_pool()
    assert isinstance(pool, SharedPool)

    def join(keys: Sequence[int], tokens: int) -> None:
        beginning = pool.begin([5] * tokens, None)
        while beginning.advance() is None:
            pass
        pool.join(beginning, keys)

    join(range(32), 4)
    for key in range(1, 32):
        pool.leave(key)
    join([100], 400)
    # Two rows of 400, and room to grow; not 32 of them.
    row_bytes = 2 * 2 * 2 * 8 * 8
    assert pool.memory_bytes <= 2 * (400 + 100) * row_bytes
    before = pool.step([0, 100], [9, 9])
    assert before.shape == (2, 400)
    pool.leave(0)
    pool.leave(100)
    assert pool.memory_bytes == 0


def test_an_adapter_that_leaves_takes_its_memory_along(llama: Place) -> None:
    model = load_double(llama.base).eval()
    for pool in (SharedPool(model), LonePool(model)):
        adapter = read_low_rank(llama.saved["rank 8"], model, dtype=torch.float64)
        beginning = pool.begin([5, 6, 7], adapter)
        while beginning.advance() is None:
            pass
        pool.join(beginning, [1])
        pool.step([1], [8])
        pool.leave(1)
        gone = weakref.ref(next(iter(adapter.layers.values())).down_RI)
        pool.forget(adapter)
        del adapter, beginning
        gc.collect()
        assert gone() is None
