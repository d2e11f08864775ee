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
from tiny_models import tiny_model_folder

SCRIPT = Path(__file__).parents[1] / "clients" / "service_flow.py"
NEWEST, OLDER = "openai==3.54.0", "openai==1.109.1"
# Package, class, prefix, sync or async.
CLIENTS = [
    pytest.param(NEWEST, "openai", "/v1", "async", id="newest-async"),
    pytest.param(OLDER, "openai", "/v1", "sync", id="1.x-sync"),
    pytest.param(OLDER, "azure", "", "async", id="1.x-azure-async"),
    pytest.param(OLDER, "openai", "/v1", "async", id="1.x-async"),
    pytest.param(OLDER, "azure", "", "sync", id="1.x-azure-sync"),
    pytest.param(NEWEST, "azure", "", "sync", id="newest-azure-sync"),
    pytest.param(NEWEST, "azure", "", "async", id="newest-azure-async"),
    pytest.param(NEWEST, "openai", "/openai/v1", "sync", id="newest-openai-v1-sync"),
]
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
@pytest.mark.parametrize(("package", "kind", "prefix", "mode"), CLIENTS)
def test_every_client(
    tiny_service: LiveService, tmp_path: Path, package: str, kind: str, prefix: str, mode: str
) -> None:
    more = {"MODEL": "tiny", "OPTIONS": json.dumps(TINY), "POLL_SECONDS": "0.3"}
    check(seen_by(tiny_service, rows(tmp_path, 12), package, (kind, prefix, mode), **more), "tiny")


@pytest.mark.slow
@pytest.mark.starter
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("starter_model", "encoder_model")
def test_the_starter_model_is_tuned_and_answers(tmp_path: Path) -> None:
    """The real thing: the starter model learns a sample and answers by its new name."""
    from tunesmith.samples import sample_folder

    lines = (sample_folder("support_routing") / "train.jsonl").read_text("utf-8").splitlines()[:40]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    base, encoder = "smollm2-135m-instruct", "all-minilm-l6-v2"
    more = {"MODEL": base, "ENCODER": encoder, "OPTIONS": json.dumps({"budget": "60s"}), "MOST_SECONDS": "900"}
    with live_service(tmp_path, "--models", f"{base},{encoder}") as service:
        seen = seen_by(service, tmp_path / "rows.jsonl", NEWEST, ("openai", "/v1", "sync"), **more)
    check(seen, base)
    assert seen["embeddings"] == [2, True]
