"""The application as ASGI sees it, over a real engine: who may ask, who is turned away, who has gone."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from served_models import make_served
from starlette.requests import ClientDisconnect

from tunesmith.errors import ModelError, ResourceError
from tunesmith.inference.catalog import Entry, ModelCatalog
from tunesmith.inference.classifier import Classifier
from tunesmith.inference.embedder import Embedder
from tunesmith.inference.engines import make_engines
from tunesmith.inference.metrics import Metrics
from tunesmith.inference.paths.app import make_app
from tunesmith.inference.requests import Request
from tunesmith.inference.shelf import Shelf
from tunesmith.wire.serving import REQUEST_HEADER, STOP_PATH, STOPPED, ServedModel, Service

# PEFT asks for a property by a name that Transformers has just deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
PATIENCE_SECONDS = 30
QUESTION = [{"role": "user", "content": "Where is my parcel?"}]
SHORT = {"model": "base", "messages": QUESTION, "temperature": 0, "max_tokens": 2}
ENDLESS = {**SHORT, "max_tokens": 150_000}
KEYS = {"alice": "secret-of-alice", "bob": "secret-of-bob"}


class Place:
    """An application with its engine, and the requests that the engine was given."""

    def __init__(self, models: Sequence[ServedModel], keys: Mapping[str, str], **settings: Any) -> None:
        self.metrics = Metrics()
        entries = {one.name: Entry(one, "writes") for one in models}
        catalog = ModelCatalog({**entries, "vectors": Entry(models[0], "embeds")})
        self.engines = make_engines(Service(tuple(models), dict(keys), **settings), catalog, self.metrics)
        self.requests: list[Request] = []
        self.failure: Exception | None = None
        self.vectors_come = threading.Event()
        shelf: Shelf[Classifier | Embedder] = Shelf(1, self._load, lambda _: None)
        self.app = make_app(catalog, self, shelf, self.metrics, keys=dict(keys), ready=threading.Event())

    def _load(self, _name: str) -> Embedder:
        assert self.vectors_come.wait(PATIENCE_SECONDS)
        raise ModelError("no vectors here")

    def start(self) -> None:
        self.engines.start()

    def submit(self, request: Request) -> None:
        """Remembers, and hands on."""
        if self.failure is not None:
            raise self.failure
        self.engines.submit(request)
        self.requests.append(request)

    def close(self) -> None:
        for request in self.requests:
            request.cancelled.set()
        self.engines.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(asyncio.wait_for(work, PATIENCE_SECONDS))

    async def ask(self, body: Any, key: str = "", path: str = "/v1/chat/completions", **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            content = {"json": body} if not isinstance(body, (bytes, type(None))) else {"content": body}
            return await client.request("GET" if body is None else "POST", path, **content, **options)

    def values(self) -> dict[tuple[str, ...], float]:
        families = text_string_to_metric_families(self.metrics.text().decode())
        return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}

    async def until(self, name: str, value: float, *labels: str) -> None:
        while self.values().get((name, *labels), 0) < value:
            await asyncio.sleep(0.01)

    async def until_cancelled(self, count: int) -> None:
        await self.until("tunesmith_requests_total", count, "cancelled", "base")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[ServedModel]:
    return make_served(tmp_path_factory.mktemp("app"))[:1]


@pytest.fixture
def make(models: list[ServedModel]) -> Iterator[Any]:
    places: list[Place] = []

    def start(keys: Mapping[str, str] | None = None, **settings: Any) -> Place:
        places.append(Place(models, keys or {}, **settings))
        places[-1].start()
        return places[-1]

    yield start
    for place in places:
        place.close()


def error_of(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return answer.status_code, error["code"], error["param"]


def test_too_many_get_429_with_the_time_to_wait(make: Any) -> None:
    place = make(rows_at_once=1, most_waiting=1)

    async def work() -> httpx.Response:
        going = [asyncio.create_task(place.ask(ENDLESS))]
        await place.until("tunesmith_requests_running", 1)
        going.append(asyncio.create_task(place.ask(ENDLESS)))
        await place.until("tunesmith_requests_waiting", 1)
        refused = await place.ask(SHORT)
        # Of several prompts the first may be taken and another not: then none is answered.
        several = await place.ask({"model": "base", "prompt": ["a", "b"]}, path="/v1/completions")
        assert several.status_code == 429
        streamed = await place.ask({**SHORT, "stream": True})
        assert streamed.status_code == 429
        for request in place.requests:
            request.cancelled.set()
        await asyncio.gather(*going, return_exceptions=True)
        return refused

    refused = place.run(work())
    assert error_of(refused) == (429, "rate_limit_exceeded", None)
    assert int(refused.headers["retry-after"]) >= 1
    assert place.values()["tunesmith_requests_total", "refused", "base"] >= 3


@pytest.mark.parametrize("stream", [False, True])
def test_when_one_of_several_prompts_is_turned_away_the_others_stop(make: Any, stream: bool) -> None:
    place = make(rows_at_once=1, most_waiting=1)

    async def work() -> httpx.Response:
        going = asyncio.create_task(place.ask(ENDLESS))
        await place.until("tunesmith_requests_running", 1)
        many = {"model": "base", "prompt": ["a", "b", "c"], "max_tokens": 1000, "stream": stream}
        refused = await place.ask(many, path="/v1/completions")
        assert all(request.cancelled.is_set() for request in place.requests[1:])
        await place.until_cancelled(len(place.requests) - 1)
        place.requests[0].cancelled.set()
        await asyncio.gather(going, return_exceptions=True)
        return refused

    assert place.run(work()).status_code == 429


def test_keys_let_in_and_are_tenants(make: Any) -> None:
    place = make(KEYS)

    async def work() -> list[int]:
        answers = [await place.ask(SHORT, key) for key in (*KEYS.values(), "", "secret-of-alic", "alice")]
        answers += [await place.ask(None, path=path) for path in ("/health", "/ready", "/metrics", "/v1/models")]
        return [answer.status_code for answer in answers]

    assert place.run(work()) == [200, 200, 401, 401, 401, 200, 503, 401, 401]
    assert [request.tenant for request in place.requests] == ["alice", "bob"]


def test_without_several_keys_models_are_the_tenants(make: Any) -> None:
    place = make({"only": "secret-of-all"})
    assert place.run(place.ask(SHORT, "secret-of-all")).status_code == 200
    assert [request.tenant for request in place.requests] == ["base"]


def test_a_service_says_for_whom_it_asks_and_nobody_else_does(make: Any) -> None:
    told = {"x-tunesmith-tenant": "proj_a"}
    place = make({**KEYS, "service": "secret-of-the-service"})
    for key in ("secret-of-the-service", KEYS["alice"]):
        assert place.run(place.ask(SHORT, key, headers=told)).status_code == 200
    assert place.run(place.ask(SHORT, "secret-of-the-service")).status_code == 200
    assert [request.tenant for request in place.requests] == ["proj_a", "alice", "service"]


def test_a_services_project_with_many_requests_does_not_hold_up_another(make: Any) -> None:
    key = "secret-of-the-service"
    place = make({"service": key}, rows_at_once=1)

    async def work() -> list[str]:
        ended: list[str] = []

        async def ask(project: str, body: dict[str, Any]) -> None:
            prompt = {"model": "base", "prompt": "a", "max_tokens": 2, "temperature": 0}
            answer = await place.ask(body or prompt, key, "/v1/completions", headers={"x-tunesmith-tenant": project})
            ended.append(project if answer.status_code == 200 else "refused")

        first = asyncio.create_task(place.ask(ENDLESS, key, headers={"x-tunesmith-tenant": "flood"}))
        await place.until("tunesmith_requests_running", 1)
        flood = [asyncio.create_task(ask("flood", {})) for _ in range(12)]
        await place.until("tunesmith_requests_waiting", 12)
        other = asyncio.create_task(ask("other", {}))
        await place.until("tunesmith_requests_waiting", 13)
        place.requests[0].cancelled.set()
        await asyncio.gather(first, *flood, other, return_exceptions=True)
        return ended

    ended = place.run(work())
    assert sorted(set(ended)) == ["flood", "other"]
    # It came last and waits for none of those that were there before.
    assert ended.index("other") <= 1


def test_a_wrong_key_is_told_in_openais_shape(make: Any) -> None:
    place = make(KEYS)
    answer = place.run(place.ask(SHORT, "secret-of-mallory"))
    assert error_of(answer) == (401, "invalid_api_key", None)
    assert "secret-of" not in answer.text


def test_bodies_that_are_too_large_are_refused_unread(make: Any) -> None:
    place = make()
    announced = place.run(place.ask(b"x", headers={"Content-Length": str(33 * 2**20)}))
    assert error_of(announced) == (413, "body_too_large", None)
    nonsense = place.run(place.ask(b"x", headers={"Content-Length": "-5"}))
    assert nonsense.status_code == 413

    async def unannounced() -> Any:
        for _ in range(40):
            yield b"x" * 2**20

    async def work() -> httpx.Response:
        transport = httpx.ASGITransport(app=place.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/v1/chat/completions", content=unannounced())

    assert 400 <= place.run(work()).status_code < 500
    assert place.requests == []


async def vanish(place: Place, body: Mapping[str, Any], *, version: str, after_events: int) -> None:
    """A client that is gone once it has got so many events, before the first if that is none."""
    gone = asyncio.Event()
    sent = 0
    messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    if after_events == 0:
        gone.set()

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal sent
        if gone.is_set() and version == "2.4":
            raise OSError("gone")
        sent += message["type"] == "http.response.body"
        if sent >= after_events:
            gone.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": version},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/chat/completions" if "messages" in body else "/v1/completions",
        "raw_path": b"",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "scheme": "http",
        "server": ("test", 80),
        "client": ("test", 1),
        "root_path": "",
    }
    # What a server takes for the sign that the client has gone.
    with suppress(OSError, ClientDisconnect):
        await place.app(scope, receive, send)
    await place.until_cancelled(1)


@pytest.mark.parametrize("after_events", [0, 1, 5])
@pytest.mark.parametrize("version", ["2.3", "2.4"])
@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_a_client_that_vanishes_frees_the_engine(make: Any, kind: str, version: str, after_events: int) -> None:
    place = make()
    body = {"model": "base", "prompt": "x", "max_tokens": 150_000} if kind == "completion" else ENDLESS
    place.run(vanish(place, {**body, "stream": True}, version=version, after_events=after_events))
    values = place.values()
    assert values["tunesmith_requests_running",] == values["tunesmith_requests_waiting",] == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_who_asked_stops_it_by_its_name_and_is_told_what_was_used(make: Any, path: str) -> None:
    place = make(KEYS)
    endless = {"model": "base", "max_tokens": 150_000, "temperature": 0}
    body = {**endless, "prompt": ["x", "y z"]} if path == "/v1/completions" else ENDLESS

    async def stop(who: str) -> int:
        transport = httpx.ASGITransport(app=place.app)
        headers = {"Authorization": f"Bearer {KEYS[who]}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            return (await client.delete(f"{STOP_PATH}/mine")).status_code

    async def work() -> httpx.Response:
        assert await stop("alice") == 404
        asking = asyncio.ensure_future(place.ask(body, KEYS["alice"], path, headers={REQUEST_HEADER: "mine"}))
        await place.until("tunesmith_completion_tokens_total", 9, "base")
        assert await stop("bob") == 404
        assert await stop("alice") == 204
        return await asking

    answer = place.run(work())
    assert answer.status_code == STOPPED
    usage = answer.json()["usage"]
    assert usage["prompt_tokens"] == sum(len(request.prompt) for request in place.requests)
    assert 9 <= usage["completion_tokens"] < 10_000
    assert place.run(place.ask(SHORT, KEYS["alice"])).status_code == 200


def test_a_request_that_was_stopped_before_its_turn_has_used_nothing(make: Any) -> None:
    place = make(rows_at_once=1)

    async def work() -> httpx.Response:
        first = asyncio.ensure_future(place.ask(ENDLESS))
        await place.until("tunesmith_requests_running", 1)
        second = asyncio.ensure_future(place.ask(ENDLESS, headers={REQUEST_HEADER: "mine"}))
        await place.until("tunesmith_requests_waiting", 1)
        transport = httpx.ASGITransport(app=place.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.delete(f"{STOP_PATH}/mine")).status_code == 204
        first.cancel()
        return await second

    assert place.run(work()).json()["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def test_a_client_that_vanishes_without_a_stream_frees_the_engine(make: Any) -> None:
    place = make()
    place.run(vanish(place, ENDLESS, version="2.3", after_events=0))
    assert place.run(place.ask(SHORT)).status_code == 200


def test_many_who_wait_for_vectors_do_not_hold_up_those_who_chat(make: Any) -> None:
    place = make()

    async def work() -> list[int]:
        body = {"model": "vectors", "input": "x"}
        waiting = [asyncio.create_task(place.ask(body, path="/v1/embeddings")) for _ in range(100)]
        await asyncio.sleep(0)
        chats = [(await place.ask(SHORT)).status_code for _ in range(2)]
        place.vectors_come.set()
        return chats + [(await one).status_code for one in waiting]

    assert place.run(work()) == [200, 200, *[500] * 100]


def test_failures_that_are_ours_are_told_and_others_are_named_by_kind_alone(make: Any) -> None:
    place = make()
    place.failure = ResourceError("not enough memory", code="resource.memory")
    assert error_of(place.run(place.ask(SHORT))) == (503, "resource.memory", None)
    place.failure = ValueError("a secret of somebody")
    answer = place.run(place.ask(SHORT))
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "unexpected error: ValueError"
