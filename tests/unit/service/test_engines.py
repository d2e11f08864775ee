"""Engines come and go: started when they are asked for, ended when they are idle, replaced when they die.

Their process is a stand-in (tests/fake_engine.py); tests/integration/test_service_inference.py has real ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_engines import engine_states, hosted, hurry, served, serving_command, stand_in_site, until
from service_site import DATABASES, Site
from sqlalchemy import select, update

from tunesmith.service.db.tables.inference import ENGINES
from tunesmith.service.db.tables.usage import USAGE
from tunesmith.service.engines import process
from tunesmith.service.settings import write_settings
from tunesmith.service.shared.engines import ensure_engine

CHAT = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def kind() -> str:
    """The database where it does not matter; some tests are for each."""
    return "sqlite"


@pytest.fixture
def make(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(process, "serving_command", serving_command)
    hurry(monkeypatch)
    sites = []

    def make(**settings: Any) -> Site:
        sites.append(stand_in_site(tmp_path, kind, **settings))
        return sites[-1]

    yield make
    for site in sites:
        site.context.database.close()


def chat(http: httpx.Client, model: str, **body: Any) -> httpx.Response:
    return http.post("/v1/chat/completions", json={"model": model, **CHAT, **body})


def test_an_engine_sleeps_when_nobody_asks_and_wakes_when_somebody_does(make: Any) -> None:
    site = make(engine_idle_seconds=0.5)
    http = site.client("inference")
    with hosted(site.context):
        first = chat(http, "one")
        assert first.json()["choices"][0]["message"]["content"] == "one says 1"
        until(lambda: engine_states(site.context) == {"one": "stopped"})
        assert chat(http, "one").status_code == 200
        body = {"name": "door", "model": "two", "min_replicas": 1}
        assert site.client().post("/tunesmith/v1/deployments", json=body).status_code == 200
        until(lambda: engine_states(site.context) == {"one": "stopped", "two": "ready"})
        door = site.client().get("/tunesmith/v1/deployments/door").json()
        assert door["state"] == "ready"
        # It stays, though nobody asks; the deployment's end is its end.
        site.client().delete("/tunesmith/v1/deployments/door")
        until(lambda: engine_states(site.context)["two"] == "stopped")
    assert engine_states(site.context) == {"one": "stopped", "two": "stopped"}
    assert list(site.context.scratch.iterdir()) == []


def test_a_deployment_of_an_archived_project_keeps_no_model_loaded(make: Any) -> None:
    site = make(engine_idle_seconds=0.5)
    project = site.project("closing")
    with hosted(site.context):
        body = {"name": "door", "model": "two", "min_replicas": 1}
        assert project.client().post("/tunesmith/v1/deployments", json=body).status_code == 200
        until(lambda: engine_states(site.context) == {"two": "ready"})
        path = f"/tunesmith/v1/projects/{project.id}"
        assert site.operator.post(f"{path}/archive").status_code == 200
        until(lambda: engine_states(site.context) == {"two": "stopped"})
        assert site.operator.post(f"{path}/restore").status_code == 200
        until(lambda: engine_states(site.context) == {"two": "ready"})


def test_the_least_recently_used_leaves_when_there_are_too_many(make: Any) -> None:
    site = make(engines_at_once=2)
    http = site.client("inference")
    with hosted(site.context):
        for name in ("one", "two", "three"):
            assert chat(http, name).status_code == 200
        assert engine_states(site.context) == {"one": "stopped", "two": "ready", "three": "ready"}


def test_a_deployment_that_stays_yields_the_only_place_and_takes_it_again(make: Any) -> None:
    site = make(engines_at_once=1, engine_idle_seconds=1.5)
    http = site.client("inference")
    with hosted(site.context):
        body = {"name": "door", "model": "one", "min_replicas": 1}
        assert site.client().post("/tunesmith/v1/deployments", json=body).status_code == 200
        until(lambda: engine_states(site.context) == {"one": "ready"})
        assert chat(http, "two").status_code == 200
        assert engine_states(site.context) == {"one": "stopped", "two": "ready"}
        assert site.client().get("/tunesmith/v1/deployments/door").json()["state"] == "asleep"
        # Whoever asks it meanwhile waits as for any model.
        assert chat(http, "door").status_code == 200
        assert chat(http, "two").status_code == 200
        until(lambda: engine_states(site.context) == {"one": "ready", "two": "stopped"})


def test_deployments_that_stay_leave_room_for_others(make: Any) -> None:
    site = make(engines_at_once=2, engine_idle_seconds=1.5)
    http = site.client("inference")
    with hosted(site.context):
        for name in ("one", "two"):
            body = {"name": f"door-{name}", "model": name, "min_replicas": 1}
            assert site.client().post("/tunesmith/v1/deployments", json=body).status_code == 200
        until(lambda: engine_states(site.context) == {"one": "ready", "two": "ready"})
        assert chat(http, "three").status_code == 200
        assert engine_states(site.context) == {"one": "ready", "two": "stopped", "three": "ready"}
        # It comes back by itself once there is room again.
        until(lambda: engine_states(site.context) == {"one": "ready", "two": "ready", "three": "stopped"})


def test_an_engine_that_died_is_started_again_and_a_broken_one_is_not(make: Any) -> None:
    site = make()
    http = site.client("inference")
    with hosted(site.context):
        assert chat(http, "one").status_code == 200
        died = chat(http, "one", user="die")
        assert died.status_code == 503
        assert died.headers["x-should-retry"] == "true"
        # The next one waits for the next engine, unless it still met the end of this one.
        until(lambda: chat(http, "one").status_code == 200)
        failed = chat(http, "broken")
        assert failed.status_code == 503
        assert failed.json()["error"]["code"] == "model_unavailable"
        assert failed.headers["x-should-retry"] == "false"
        assert "torn" not in failed.text
        (reason,) = [
            one["reason"] for one in site.operator.get("/tunesmith/v1/engines").json()["data"] if one["reason"]
        ]
        assert "the weights are torn" in reason
        for _ in range(2):
            until(lambda: chat(http, "one").status_code == 200)
            chat(http, "one", user="die")
        until(lambda: engine_states(site.context)["one"] == "failed")


def test_a_stream_that_breaks_off_ends_with_an_error_and_is_paid_so_far(make: Any) -> None:
    site = make()
    with hosted(site.context), served(site) as url:
        headers = {"Authorization": f"Bearer {site.default.key('inference')}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as http:
            body = {"model": "one", "stream": True, "user": "die midway", **CHAT}
            with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                lines = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
        assert [line["choices"][0]["delta"]["content"] for line in lines[:-1]] == ["x"] * 6
        assert lines[-1]["error"]["code"] == "engine_unavailable"

        def used() -> dict[str, int]:
            with site.context.database.read() as connection:
                return {row.kind: row.quantity for row in connection.execute(select(USAGE))}

        until(used)
        assert used() == {"input_tokens": 3, "output_tokens": 6, "requests": 1}


def used(site: Site) -> dict[str, int]:
    with site.context.database.read() as connection:
        return {row.kind: row.quantity for row in connection.execute(select(USAGE.c.kind, USAGE.c.quantity))}


@pytest.mark.parametrize("kind", DATABASES)
def test_who_leaves_before_a_whole_answer_pays_for_what_was_used(make: Any) -> None:
    site = make()
    with hosted(site.context), served(site) as url:
        headers = {"Authorization": f"Bearer {site.default.key('inference')}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as http:
            assert chat(http, "one").status_code == 200
            before = used(site)
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v1/chat/completions", json={"model": "one", "user": "endless", **CHAT}, timeout=2)
            until(lambda: used(site)["requests"] == 2)
            assert used(site)["input_tokens"] == before["input_tokens"] + 30
            assert used(site)["output_tokens"] == before["output_tokens"] + 7
            # Vectors and labels are made anyway, and paid for as a whole.
            with pytest.raises(httpx.ReadTimeout):
                http.post("/tunesmith/v1/classify", json={"model": "one", "user": "late"}, timeout=2)
            until(lambda: used(site)["requests"] == 3)
            assert used(site)["input_tokens"] == before["input_tokens"] + 33


def test_labels_are_paid_for_by_their_tokens(make: Any) -> None:
    site = make()
    with hosted(site.context):
        assert site.client("inference").post("/tunesmith/v1/classify", json={"model": "one"}).status_code == 200
    assert used(site) == {"requests": 1, "input_tokens": 3, "output_tokens": 2}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_a_project_has_so_many_tokens_a_minute(make: Any, path: str) -> None:
    """An answer of the stand-in takes five; what came before is told, and whoever is beyond the limit is refused."""
    site = make()
    http = site.project("small", tokens_per_minute=8).client("inference")
    with hosted(site.context):
        answers = [http.post(path, json={"model": "one", **CHAT}) for _ in range(3)]
        assert chat(site.client("inference"), "one").status_code == 200
    assert [one.status_code for one in answers] == [200, 200, 429]
    assert [one.headers["x-ratelimit-remaining-tokens"] for one in answers] == ["8", "3", "0"]
    assert {one.headers["x-ratelimit-limit-tokens"] for one in answers} == {"8"}
    refused = answers[-1]
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["x-ratelimit-reset-tokens"].endswith("s")


def test_tokens_of_a_stream_count_for_the_minute(make: Any) -> None:
    site = make()
    http = site.project("small", tokens_per_minute=50).client("inference")
    with hosted(site.context):
        # 103, told at its end.
        streamed = chat(http, "one", stream=True)
        assert streamed.headers["x-ratelimit-limit-tokens"] == "50"
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert chat(http, "one", stream=True).status_code == 429


def test_a_deployment_answers_with_both_of_its_models(make: Any) -> None:
    site = make()
    http = site.client("inference")
    body = {"name": "door", "traffic": {"one": 50, "two": 50}}
    assert site.client().post("/tunesmith/v1/deployments", json=body).status_code == 200
    with hosted(site.context):
        answers = [http.post("/openai/deployments/door/chat/completions", json=CHAT) for _ in range(40)]
    assert {answer.status_code for answer in answers} == {200}
    # The name in the answer is the one that was asked; which model it was, a header says.
    assert {answer.json()["model"] for answer in answers} == {"door"}
    said = {
        answer.headers["x-tunesmith-model"]: answer.json()["choices"][0]["message"]["content"] for answer in answers
    }
    assert said == {"one": "one says 1", "two": "two says 1"}


@pytest.mark.parametrize("kind", DATABASES)
def test_a_host_that_was_killed_is_replaced(make: Any, tmp_path: Path) -> None:
    """A process of its own, ended by SIGKILL: its engine ends too, and the next host starts another one."""
    site = make()
    settings = tmp_path / "settings.json"
    write_settings(site.context.settings, settings)
    code = (
        "import sys, threading; from pathlib import Path\n"
        f"sys.path[:0] = {[path for path in sys.path if path.endswith('tests')]!r}\n"
        "from service_engines import serving_command; from tunesmith.service.engines import host, process\n"
        "from tunesmith.service.context import open_context; from tunesmith.service.settings import read_settings\n"
        "process.serving_command = serving_command\n"
        f"host.run(open_context(read_settings(Path({str(settings)!r}))), threading.Event())\n"
    )
    first = subprocess.Popen([sys.executable, "-c", code])
    try:
        before = ensure_engine(site.context, "one", 30)
    finally:
        first.kill()
        first.wait()
    until(lambda: not answers(before.address), 10)
    with hosted(site.context):
        until(lambda: ensure_engine(site.context, "one", 30).address != before.address)
        assert chat(site.client("inference"), "one").status_code == 200
        leftovers = [path.name for path in site.context.scratch.iterdir() if str(os.getpid()) not in path.name]
        assert leftovers == []


def answers(address: str) -> bool:
    try:
        httpx.post(address, json={}, headers={"Authorization": ""}, trust_env=False)
    except httpx.TransportError:
        return False
    return True


@pytest.mark.parametrize("stream", [False, True])
def test_a_stranger_at_an_engines_address_is_no_wrong_key_of_the_asker(make: Any, stream: bool) -> None:
    """Another process has got the port of an engine that died; a moment later the next engine is there."""
    site = make()
    http = site.client("inference")
    with hosted(site.context):
        engine = ensure_engine(site.context, "one", 30)
        write(site, token="of-an-engine-that-died")
        mended = threading.Timer(0.5, write, (site,), {"token": engine.token})
        mended.start()
        assert chat(http, "one", stream=stream).status_code == 200
        mended.join()


def write(site: Site, **values: Any) -> None:
    with site.context.database.write() as connection:
        connection.execute(update(ENGINES).values(**values))


def test_an_engine_of_a_machine_that_is_gone_is_forgotten(make: Any) -> None:
    site = make()
    http = site.client("inference")
    with hosted(site.context):
        assert chat(http, "one").status_code == 200
    gone = {"state": "ready", "host": "elsewhere/1/ab", "address": "http://127.0.0.1:9", "token": "t"}
    with site.context.database.write() as connection:
        connection.execute(update(ENGINES).values(**gone, beat_at=site.context.now() - 100))
    with hosted(site.context):
        assert chat(http, "one").json()["choices"][0]["message"]["content"] == "one says 1"
