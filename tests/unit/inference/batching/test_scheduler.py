"""The thread that owns the models: turns of tenants, room, failures, ends. Gates make certain what comes first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from tiny_models import tiny_causal_model, tiny_tokenizer

from tunesmith.errors import ModelError
from tunesmith.generation import Decoding, generate
from tunesmith.inference.batching.batch import Batch, Writer
from tunesmith.inference.batching.scheduler import BatchingEngine, Opened
from tunesmith.inference.batching.turns import Turns
from tunesmith.inference.batching.writers import make_writer
from tunesmith.inference.metrics import Metrics
from tunesmith.inference.requests import BusyError, Request
from tunesmith.inference.shelf import Shelf

PATIENCE_SECONDS = 30
PROMPT = [5, 6, 7, 8]


class Gate:
    """A pool whose steps wait until the gate is open, and fail while told to."""

    def __init__(self, pool: Any, opened: threading.Event) -> None:
        self._pool = pool
        self._opened = opened
        self.entered = threading.Event()
        self.failing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def step(self, keys: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        self.entered.set()
        assert self._opened.wait(PATIENCE_SECONDS)
        if self.failing:
            raise RuntimeError("as the test asked")
        return self._pool.step(keys, tokens)


class Place:
    """Two models behind gates, an engine over them, and the order in which requests ended."""

    def __init__(self, writer: Writer, model: Any) -> None:
        self.model = model
        self.writer = writer
        self.open = threading.Event()
        self.batches = {
            name: Batch(replace(writer, make_pool=lambda: Gate(writer.make_pool(), self.open)))
            for name in ("one", "two")
        }
        self.metrics = Metrics()
        self.loads: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.ended: list[str] = []
        self.engines: list[BatchingEngine] = []

    def engine(self, **settings: Any) -> BatchingEngine:
        loads = Turns()
        engine = BatchingEngine(Shelf(4, self._load, lambda _: None, loads), self.metrics, loads=loads, **settings)
        engine.start()
        self.engines.append(engine)
        return engine

    def _load(self, name: str) -> Opened:
        self.loads.append(name)
        if name in self.faults:
            raise self.faults[name]
        return Opened(self.batches[name])

    def gate(self, name: str) -> Any:
        return self.batches[name].pool

    def ask(self, engine: BatchingEngine, label: str, *, tokens: int = 2, **changes: Any) -> Request:
        """Submit a request; its label is its tenant's name and a number."""
        decoding = Decoding(max_new_tokens=tokens, stop_token_ids=())
        plain = {"model": "one", "prompt": PROMPT, "tenant": label.rstrip("0123456789")}
        request = Request(decoding=decoding, **{**plain, **changes})
        request.done.add_done_callback(lambda _: self.ended.append(label))
        self.metrics.arrived(request)
        engine.submit(request)
        return request

    def hold(self, engine: BatchingEngine, label: str, **changes: Any) -> Request:
        """A request that is under way, held by the gate."""
        request = self.ask(engine, label, **changes)
        assert self.gate(request.model).entered.wait(PATIENCE_SECONDS)
        return request

    def values(self) -> dict[tuple[str, ...], float]:
        text = self.metrics.text().decode()
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Writer, Any]:
    folder = tmp_path_factory.mktemp("scheduler")
    tokenizer = tiny_tokenizer(folder)
    model = tiny_causal_model("llama", folder, tie_word_embeddings=False).double()
    # A row ends at its limit and not before.
    return replace(make_writer(model, tokenizer), stop_token_ids=frozenset()), model


@pytest.fixture
def place(model: tuple[Writer, Any]) -> Iterator[Place]:
    place = Place(*model)
    yield place
    place.open.set()
    for engine in place.engines:
        engine.close()


def tokens_of(request: Request) -> list[tuple[int, ...]]:
    return [answer.token_ids for answer in request.done.result(PATIENCE_SECONDS)]


def test_a_tenant_with_many_requests_does_not_hold_up_another(place: Place) -> None:
    engine = place.engine(rows_at_once=1)
    requests = [place.hold(engine, "many0"), *(place.ask(engine, f"many{at}") for at in range(1, 50))]
    requests.append(place.ask(engine, "few0"))
    place.open.set()
    assert len({tuple(tokens_of(request)) for request in requests}) == 1
    assert place.ended.index("few0") <= 1


def test_who_was_served_while_nobody_waited_does_not_pay_for_it_later(place: Place) -> None:
    engine = place.engine(rows_at_once=1)
    place.open.set()
    for _ in range(5):
        tokens_of(place.ask(engine, "early", tokens=40))
    place.open.clear()
    place.gate("one").entered.clear()
    requests = [place.hold(engine, "late0"), *(place.ask(engine, f"late{at}") for at in range(1, 20))]
    requests.append(place.ask(engine, "early"))
    place.ended.clear()
    place.open.set()
    for request in requests:
        tokens_of(request)
    assert place.ended.index("early") <= 2


def test_two_tenants_get_as_much_each(place: Place) -> None:
    engine = place.engine(rows_at_once=1)
    requests = [place.hold(engine, "first0")]
    # One asks for long answers, the other for short ones: tokens are shared and not turns.
    requests += [place.ask(engine, f"long{at}", tokens=30) for at in range(4)]
    requests += [place.ask(engine, f"short{at}", tokens=3) for at in range(16)]
    place.open.set()
    for request in requests:
        tokens_of(request)
    before_the_second = place.ended[: place.ended.index("long1")]
    assert 6 <= sum(label.startswith("short") for label in before_the_second) <= 16


def test_too_many_are_turned_away_but_not_those_who_have_less_than_their_share(place: Place) -> None:
    engine = place.engine(rows_at_once=1, most_waiting=4)
    requests = [place.hold(engine, "many0"), *(place.ask(engine, f"many{at}") for at in range(1, 5))]
    with pytest.raises(BusyError):
        place.ask(engine, "many5")
    requests += [place.ask(engine, "few0"), place.ask(engine, "few1")]
    with pytest.raises(BusyError):
        place.ask(engine, "few2")
    assert place.values()["tunesmith_requests_waiting",] == 6
    place.open.set()
    for request in requests:
        tokens_of(request)
    assert place.values()["tunesmith_requests_waiting",] == 0
    tokens_of(place.ask(engine, "many6"))


def test_a_large_request_is_not_passed_by_small_ones_for_ever(place: Place) -> None:
    place.batches["one"] = Batch(replace(place.batches["one"].writer, cache_tokens=400))
    engine = place.engine(rows_at_once=32)
    place.hold(engine, "small0", tokens=4)
    large = place.ask(engine, "large", tokens=1, prompt=[9] * 300)
    small = [place.ask(engine, f"small{at}", tokens=4) for at in range(1, 6)]
    place.open.set()
    for request in [large, *small]:
        tokens_of(request)
    assert place.ended[:2] == ["small0", "large"]
    assert place.gate("one").memory_bytes == 0


def test_a_failed_step_fails_those_in_it_and_nobody_else(place: Place) -> None:
    engine = place.engine()
    broken = [place.hold(engine, "a0"), place.ask(engine, "a1", answers=2)]
    other = place.ask(engine, "b0", model="two")
    place.gate("one").failing = True
    place.open.set()
    for request in broken:
        with pytest.raises(RuntimeError, match="as the test asked"):
            request.done.result(PATIENCE_SECONDS)
    place.gate("one").failing = False
    # The engine's thread has the model until it has answered.
    said = tokens_of(other)
    (wanted,) = generate(
        place.model,
        place.writer.tokenizer,
        [PROMPT],
        Decoding(max_new_tokens=2, stop_token_ids=()),
        tokens_per_batch=99,
    )
    assert said == [wanted.token_ids]
    assert tokens_of(place.ask(engine, "a2")) == [wanted.token_ids]
    values = place.values()
    assert values["tunesmith_requests_total", "failed", "one"] == 2
    assert values["tunesmith_requests_running",] == 0


def test_whoever_stops_waiting_without_a_word_does_not_end_the_thread(place: Place) -> None:
    engine = place.engine()
    gone = [place.hold(engine, "a0"), place.ask(engine, "a1")]
    for request in gone:
        assert request.done.cancel()
    place.open.set()
    assert len(tokens_of(place.ask(engine, "a2"))) == 1


def test_cancelled_requests_leave_wherever_they_stand(place: Place) -> None:
    engine = place.engine(rows_at_once=1)
    going = place.hold(engine, "a0", tokens=300)
    waiting = [place.ask(engine, f"a{at}") for at in range(1, 4)]
    going.cancelled.set()
    waiting[1].cancelled.set()
    place.open.set()
    for request in (going, waiting[1]):
        with pytest.raises(CancelledError):
            request.done.result(PATIENCE_SECONDS)
    assert [len(tokens_of(request)) for request in (waiting[0], waiting[2])] == [1, 1]
    values = place.values()
    assert values["tunesmith_requests_total", "cancelled", "one"] == 2
    assert values["tunesmith_requests_total", "answered", "one"] == 2
    assert values["tunesmith_requests_waiting",] == values["tunesmith_requests_running",] == 0
    assert values["tunesmith_completion_tokens_total", "one"] < 300


def test_a_model_that_cannot_be_loaded_fails_its_requests_and_is_tried_again(place: Place) -> None:
    engine = place.engine()
    place.open.set()
    place.faults["two"] = ModelError("no such folder")
    with pytest.raises(ModelError, match="no such folder"):
        place.ask(engine, "a0", model="two").done.result(PATIENCE_SECONDS)
    assert len(tokens_of(place.ask(engine, "a1"))) == 1
    del place.faults["two"]
    assert len(tokens_of(place.ask(engine, "a2", model="two"))) == 1
    assert place.loads == ["two", "one", "two"]
    assert place.values()["tunesmith_models_loaded",] == 2


def test_what_was_taken_is_answered_before_the_end(place: Place) -> None:
    engine = place.engine(rows_at_once=1)
    requests = [place.hold(engine, "a0"), *(place.ask(engine, f"a{at}") for at in range(1, 4))]
    closing = threading.Thread(target=engine.close)
    closing.start()
    refused = _until(lambda: _is_refused(place, engine))
    place.open.set()
    closing.join(PATIENCE_SECONDS)
    assert not closing.is_alive()
    assert refused
    assert all(request.done.done() for request in requests)
    assert [len(tokens_of(request)) for request in requests] == [1] * 4


def _is_refused(place: Place, engine: BatchingEngine) -> bool:
    try:
        place.ask(engine, "late")
    except BusyError:
        return True
    return False


def _until(is_so: Callable[[], bool]) -> bool:
    end = threading.Event()
    for _ in range(1000):
        if is_so():
            return True
        end.wait(0.01)
    return False


def test_counters_say_what_was_done(place: Place) -> None:
    engine = place.engine()
    place.open.set()
    tokens_of(place.ask(engine, "a0", tokens=3))
    tokens_of(place.ask(engine, "a1", tokens=5, answers=2))
    values = place.values()
    assert values["tunesmith_prompt_tokens_total", "one"] == 2 * len(PROMPT)
    assert values["tunesmith_completion_tokens_total", "one"] == 3 + 2 * 5
    assert values["tunesmith_requests_total", "answered", "one"] == 2
    for name in ("tunesmith_time_to_first_token_seconds", "tunesmith_request_seconds"):
        assert values[f"{name}_count", "one"] == 2
