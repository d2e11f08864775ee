"""A service with real engines: answers, streams, deployments, batches, over one host for all tests of the file."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi import load_contract
from service_engines import engine_states, hosted, served, until
from service_models import QUESTION, Place, add_tuned, make_place
from service_site import Site
from sqlalchemy import select

from tunesmith.service.batches.work import run_batches
from tunesmith.service.db.tables import METADATA
from tunesmith.service.db.tables.usage import USAGE
from tunesmith.service.shared.files import keep_file

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
PLAIN = {"messages": QUESTION, "temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def site(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = place.site(tmp_path_factory.mktemp("service"), engines_at_once=3)
    add_tuned(site.default, place.adapters[0], "first")
    add_tuned(site.default, place.adapters[1], "second")
    add_tuned(site.default, place.alone, "alone")
    with hosted(site.context):
        yield site
    site.context.database.close()


@pytest.fixture(scope="module")
def url(site: Site) -> Iterator[str]:
    with served(site) as url:
        yield url


def used(site: Site, project: str) -> dict[tuple[str, str], int]:
    with site.context.database.read() as connection:
        rows = connection.execute(select(USAGE).where(USAGE.c.project_id == project)).all()
    found: dict[tuple[str, str], int] = {}
    for row in rows:
        found[row.model, row.kind] = found.get((row.model, row.kind), 0) + row.quantity
    return found


def stream(http: httpx.Client, path: str, **body: Any) -> list[dict[str, Any]]:
    with http.stream("POST", path, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200, answer.read()
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


FIRST, SECOND, ALONE = (f"ft:tiny:tunesmith:{name}:abcdefgh" for name in ("first", "second", "alone"))


def said_by(site: Site, *names: str) -> list[str]:
    """What models say, each answer in OpenAI's form and under the name that was asked."""
    contract = load_contract()
    operation = contract.find("POST", "/chat/completions")
    assert operation is not None
    client, said = site.client("inference"), []
    for name in names:
        answer = client.post("/v1/chat/completions", json={"model": name, **PLAIN})
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert contract.problems_of_answer(operation.answer, body) == []
        assert body["model"] == name
        assert answer.headers["x-tunesmith-model"] == name
        said.append(body["choices"][0]["message"]["content"])
    return said


def test_a_base_and_its_tuned_models_answer(site: Site) -> None:
    assert len(set(said_by(site, "tiny", FIRST, SECOND))) == 3
    # One process for the base and both adapters.
    assert engine_states(site.context) == {"tiny": "ready"}


def test_who_asks_for_an_answer_to_be_stored_gets_the_answer_and_nothing_is_kept(site: Site) -> None:
    """OpenAI's programs send it for their own records; here there are none, and reading them is refused."""
    client, (said,) = site.client(), said_by(site, "tiny")
    body = {"model": "tiny", "store": True, "metadata": {"of": "a secret customer"}, **PLAIN}
    answer = client.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, said)
    kept = client.get(f"/v1/chat/completions/{answer.json()['id']}")
    assert (kept.status_code, kept.json()["error"]["code"]) == (501, "unsupported")
    with site.context.database.read() as connection:
        rows = [str(row) for table in METADATA.sorted_tables for row in connection.execute(select(table))]
    assert rows
    assert not any("secret customer" in row or QUESTION[0]["content"] in row for row in rows)


@pytest.mark.slow
def test_a_model_with_all_its_weights_has_an_engine_of_its_own(site: Site) -> None:
    assert len(set(said_by(site, "tiny", ALONE))) == 2
    assert engine_states(site.context)["ftjob-alone:1"] == "ready"


@pytest.mark.slow
def test_a_batch_says_what_requests_say(site: Site, tmp_path: Path) -> None:
    (said,) = said_by(site, FIRST)
    path = tmp_path / "batch.jsonl"
    body = {"model": FIRST, **PLAIN}
    with path.open("w") as file:
        for at in range(12):
            line = {"custom_id": f"r{at}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    file_id = keep_file(site.context, site.default.id, "batch", "batch.jsonl", path)
    asked = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    client = site.client()
    name = client.post("/v1/batches", json=asked).json()["id"]
    stop = threading.Event()
    thread = threading.Thread(target=run_batches, args=(site.context, stop))
    thread.start()
    try:
        until(lambda: client.get(f"/v1/batches/{name}").json()["status"] == "completed")
    finally:
        stop.set()
        thread.join(60)
    output = client.get(f"/v1/batches/{name}").json()["output_file_id"]
    lines = site.file_bytes(output).splitlines()
    bodies = [json.loads(line)["response"]["body"] for line in lines]
    assert {body["choices"][0]["message"]["content"] for body in bodies} == {said}
    assert {body["model"] for body in bodies} == {FIRST}
    assert len(bodies) == 12


def test_a_stream_brings_the_same_and_counts_the_same(site: Site) -> None:
    project = site.project("streams")
    client = project.client("inference")
    whole = client.post("/v1/chat/completions", json={"model": "tiny", **PLAIN}).json()
    once = used(site, project.id)
    assert once["tiny", "input_tokens"] == whole["usage"]["prompt_tokens"]
    assert once["tiny", "output_tokens"] == whole["usage"]["completion_tokens"] == 8
    chunks = stream(client, "/v1/chat/completions", model="tiny", **PLAIN)
    assert (
        "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
        == (whole["choices"][0]["message"]["content"])
    )
    assert all(chunk["choices"] and "usage" not in chunk for chunk in chunks)
    assert {key: count // 2 for key, count in used(site, project.id).items()} == once
    chunks = stream(client, "/v1/chat/completions", model="tiny", stream_options={"include_usage": True}, **PLAIN)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    pieces = stream(client, "/v1/completions", model="tiny", prompt="The parcel", max_tokens=4, temperature=0)
    assert all(piece["model"] == "tiny" for piece in pieces)


@pytest.mark.slow
def test_vectors_and_azures_paths(site: Site) -> None:
    contract = load_contract()
    client = site.client("inference")
    answer = client.post("/v1/embeddings", json={"model": "vectors", "input": ["a", "b"]})
    operation = contract.find("POST", "/embeddings")
    assert operation is not None
    assert contract.problems_of_answer(operation.answer, answer.json()) == []
    assert answer.json()["model"] == "vectors"
    asked = {"model": "another", **PLAIN}
    client = site.with_key(None)
    client.headers["api-key"] = site.default.key("inference")
    answer = client.post(f"/openai/deployments/{FIRST}/chat/completions?api-version=2024-10-21", json=asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-tunesmith-model"] == FIRST
    assert answer.json()["model"] == FIRST


@pytest.mark.slow
def test_what_the_engine_refuses_is_told_in_the_askers_words(site: Site) -> None:
    client = site.client("inference")
    answer = client.post("/v1/chat/completions", json={"model": FIRST, "messages": []})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"
    answer = client.post("/v1/embeddings", json={"model": FIRST, "input": "a"})
    assert answer.status_code == 400
    assert "ftjob" not in answer.text
    assert answer.json()["error"]["code"] == "model_writes"


@pytest.mark.slow
def test_a_client_that_goes_away_stops_the_engine_and_pays_for_what_was_written(site: Site, url: str) -> None:
    project = site.project("goes-away")
    headers = {"Authorization": f"Bearer {project.key('inference')}"}
    # The likeliest token is never the end of a turn here, which one drawn at random can be.
    body = {"model": "tiny", "messages": QUESTION, "temperature": 0, "max_tokens": 100_000, "stream": True}
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as client:
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            for _ in range(20):
                next(lines)
        until(lambda: used(site, project.id))
        counted = used(site, project.id)
        assert 5 <= counted["tiny", "output_tokens"] < 10_000
        assert counted["tiny", "input_tokens"] > 0
        # One that waits for the whole answer, and goes.
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/chat/completions", json={**body, "stream": False}, timeout=1.5)
        until(lambda: used(site, project.id)["tiny", "requests"] == 2)
        whole = used(site, project.id)
        assert whole["tiny", "input_tokens"] == 2 * counted["tiny", "input_tokens"]
        assert 1 <= whole["tiny", "output_tokens"] - counted["tiny", "output_tokens"] < 10_000
        # The engine writes nothing any more: the next one has it to itself.
        assert client.post("/v1/chat/completions", json={**body, "stream": False, "max_tokens": 4}).status_code == 200
