"""OpenAI's own package against a whole service that really tunes: what its documentation does works by another address.

Each client goes through a proxy that keeps what was said, and every answer is held against OpenAI's own description.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_environments import environment
from live_service import LiveService, live_service
from openapi import load_contract
from recording_proxy import recording
from service_site import database_url
from tiny_models import tiny_model_folder

from tunesmith.samples import sample_folder

SCRIPT = Path(__file__).parents[1] / "clients" / "service_flow.py"
STARTER, ENCODER = "smollm2-135m-instruct", "all-minilm-l6-v2"
NEWEST, OLDER = "openai==3.54.0", "openai==1.109.1"
# Package, class, prefix, sync or async.
CLIENTS = [
    pytest.param(NEWEST, "openai", "/v1", "sync", id="newest-sync"),
    pytest.param(NEWEST, "openai", "/v1", "async", id="newest-async"),
    pytest.param(OLDER, "openai", "/v1", "sync", id="1.x-sync"),
    pytest.param(OLDER, "azure", "", "async", id="1.x-azure-async"),
    pytest.param(OLDER, "openai", "/v1", "async", id="1.x-async"),
    pytest.param(OLDER, "azure", "", "sync", id="1.x-azure-sync"),
    pytest.param(NEWEST, "azure", "", "sync", id="newest-azure-sync"),
    pytest.param(NEWEST, "azure", "", "async", id="newest-azure-async"),
    pytest.param(NEWEST, "openai", "/openai/v1", "sync", id="newest-openai-v1-sync"),
]
# As little as one can tune by: nobody looks at how good it is here.
QUICK = {"budget": "20s", "few_shot": 0, "evaluation_rows": 2}
TINY = {"technique": "lora", "rank": 4, "max_length": 64}
RESULTS = ["step", "train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy"]
RESULTS += ["full_valid_loss", "full_valid_mean_token_accuracy"]


def rows(folder: Path, count: int) -> Path:
    path = folder / "rows.jsonl"
    turns = [("Where is my parcel?", "On its way."), ("How do I return it?", "Send it back.")]
    lines = []
    for number in range(count):
        question, answer = turns[number % 2]
        messages = [{"role": "user", "content": f"{question} {number}"}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines) + "\n")
    return path


def another_project(service: LiveService) -> str:
    with service.client("/tunesmith/v1") as client:
        name = f"other-{secrets.token_hex(4)}"
        return str(client.post("/projects", json={"name": name}).raise_for_status().json()["id"])


def seen_by(service: LiveService, data: Path, package: str, way: tuple[str, str, str], **more: str) -> dict[str, Any]:
    """What a client saw, after every answer was held against the contract."""
    kind, prefix, mode = way
    contract = load_contract()
    with recording(service.root) as proxy:
        variables = {
            "ROOT": proxy.url,
            "API_KEY": service.key,
            "OTHER_PROJECT": another_project(service),
            "KIND": kind,
            "PREFIX": prefix,
            "MODE": mode,
            "ROWS": str(data),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **more,
        }
        done = subprocess.run(
            [str(environment(package)), str(SCRIPT)],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}\n{service.words()}"
    problems = sorted(set(proxy.problems(contract)))
    assert not problems, "\n".join(problems)
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert seen["version"] == package.partition("==")[2]
    return seen


def check(seen: dict[str, Any], base: str) -> None:
    assert seen["file"] == [True, "processed", "fine-tune"]
    assert seen["status"] == ["succeeded", None]
    assert (seen["twice"], seen["listed"], seen["trained_tokens"], seen["resolved"]) == (True, True, True, [True] * 2)
    assert seen["events"][0].startswith("Created fine-tuning job: ftjob-")
    assert seen["events"][-1] == "The job has successfully completed"
    assert seen["metrics"] > 0
    assert seen["results"] == RESULTS
    assert seen["name"].startswith(f"ft:{base}:")
    assert ":mine:" in seen["name"]
    assert (seen["model"], seen["in_list"]) == (seen["name"], True)
    assert seen["usage"]
    assert all(name.startswith(seen["name"]) for name in seen["checkpoints"])
    assert seen["checkpoints"]
    assert seen["shared"] == [True, True, True, []]
    assert seen["method"] == ["dpo", 0.2]
    assert (seen["steered"], seen["by_metadata"]) == (["paused", "queued", "cancelled"], [True, False])
    assert seen["completion"]
    assert seen["upload"] == ["completed", True]
    assert seen["batch"] == ["completed", 2, 1, 1], seen
    assert seen["text"] == seen["streamed"] == seen["batch_answer"]
    assert (seen["deleted"], seen["gone"]) == (True, True)
    assert seen["errors"] == {
        "model": ["NotFoundError", 404, "model_not_found"],
        "key": ["AuthenticationError", 401, "invalid_api_key"],
        "job": ["NotFoundError", 404, seen["errors"]["job"][2]],
        "deleted": ["NotFoundError", 404, "model_not_found"],
    }


@pytest.fixture(scope="module")
def tiny_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("tiny-service")
    model = tiny_model_folder("llama", folder / "tiny")
    with live_service(folder, "--models", f"tiny={model}") as service:
        yield service


def test_the_whole_flow_on_a_tiny_model(tiny_service: LiveService, tmp_path: Path) -> None:
    more = {"MODEL": "tiny", "OPTIONS": json.dumps(TINY), "POLL_SECONDS": "0.3"}
    seen = seen_by(tiny_service, rows(tmp_path, 12), NEWEST, ("openai", "/v1", "sync"), **more)
    check(seen, "tiny")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_flow_over_postgresql(tmp_path: Path) -> None:
    """What is kept in the other database looks the same from outside."""
    more = {"MODEL": "tiny", "OPTIONS": json.dumps(TINY), "POLL_SECONDS": "0.3"}
    model = tiny_model_folder("llama", tmp_path / "tiny")
    database = database_url("postgresql", tmp_path)
    with live_service(tmp_path, "--models", f"tiny={model}", "--database", database) as service:
        check(seen_by(service, rows(tmp_path, 12), OLDER, ("azure", "", "async"), **more), "tiny")


@pytest.fixture(scope="module")
def starter_service(
    tmp_path_factory: pytest.TempPathFactory, starter_model: Path, encoder_model: Path
) -> Iterator[LiveService]:
    with live_service(tmp_path_factory.mktemp("starter"), "--models", f"{STARTER},{ENCODER}") as service:
        yield service


@pytest.mark.slow
@pytest.mark.starter
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("package", "kind", "prefix", "mode"), CLIENTS)
def test_every_client_tunes_the_starter_model_and_asks_it(
    starter_service: LiveService, tmp_path: Path, package: str, kind: str, prefix: str, mode: str
) -> None:
    """The real thing, by each of the official clients."""
    lines = (sample_folder("support_routing") / "train.jsonl").read_text("utf-8").splitlines()[:12]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    more = {"MODEL": STARTER, "ENCODER": ENCODER, "OPTIONS": json.dumps(QUICK), "MOST_SECONDS": "600"}
    seen = seen_by(starter_service, path, package, (kind, prefix, mode), **more)
    check(seen, STARTER)
    assert seen["embeddings"] == [2, True]
