"""Other people's clients against a real server, each in an environment of its own: what they get is what they expect.

The scripts under tests/clients/ print what their library saw. Environments are kept in the cache between runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_environments import environment
from served_models import NAMES, make_served

from tunesmith.jobs.inference_process import InferenceProcess, start_inference

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]
SCRIPTS = Path(__file__).parents[1] / "clients"
QUESTION = [{"role": "user", "content": "Where is my parcel?"}]
PLAIN = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceProcess]:
    with start_inference(make_served(tmp_path_factory.mktemp("clients"))) as running:
        yield running


def seen_by(process: InferenceProcess, script: str, *packages: str) -> dict[str, Any]:
    variables = {
        "BASE_URL": f"{process.base_url}/v1",
        "API_KEY": process.token,
        "MODELS": ",".join(NAMES),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    done = subprocess.run(
        [str(environment(*packages)), str(SCRIPTS / script)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def expected(process: InferenceProcess) -> list[str]:
    return [process.client.chat(QUESTION, name, **PLAIN) for name in NAMES[1:]]


@pytest.mark.parametrize("package", ["openai==3.54.0", "openai==1.109.1"])
def test_the_official_package(process: InferenceProcess, package: str) -> None:
    seen = seen_by(process, "openai_package.py", package)
    one, two = expected(process)
    assert seen["version"] == package.partition("==")[2]
    assert seen["models"] == list(NAMES)
    assert seen["model"] == NAMES[2]
    assert seen["text"] == seen["streamed"] == one
    assert seen["stopped"] == one[: one.index(one[3:5])]
    assert seen["both"] == [one, two]
    assert (seen["usage"], seen["stream_usage"]) == (0, True)
    assert (seen["answers"], seen["logprobs"]) == (2, [2])
    assert list(seen["kept"]) == ["ok"]
    assert all(name == "look_up" and 1 <= given["number"] <= 9 for name, given in seen["called"])
    assert (bool(seen["called"]), seen["call_finish"]) == (True, "tool_calls")
    assert seen["completion"]
    assert seen["errors"] == {
        "model": ["NotFoundError", 404, "model_not_found"],
        "key": ["AuthenticationError", 401, "invalid_api_key"],
        "value": ["BadRequestError", 400, "invalid_value"],
    }


@pytest.mark.parametrize(
    ("script", "packages"),
    [
        ("langchain_chat.py", ("langchain-openai==1.7.4",)),
        ("semantic_kernel_chat.py", ("semantic-kernel==1.45.0",)),
        ("promptflow_chat.py", ("promptflow-core==1.18.5", "openai==3.54.0")),
    ],
)
def test_frameworks(process: InferenceProcess, script: str, packages: tuple[str, ...]) -> None:
    seen = seen_by(process, script, *packages)
    one, two = expected(process)
    assert seen["text"] == seen["streamed"] == one
    assert seen["stopped"].rstrip() == one[: one.index(one[3:5])].rstrip()
    assert seen["both"] == [one, two]
    assert seen["error"]


def test_curl(process: InferenceProcess) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl here")
    body = json.dumps({"model": NAMES[1], "messages": QUESTION, **PLAIN})
    command = [
        *(curl, "--silent", "--noproxy", "*", f"{process.base_url}/v1/chat/completions"),
        *("--header", f"Authorization: Bearer {process.token}", "--json", body),
    ]
    whole = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert whole["choices"][0]["message"]["content"] == expected(process)[0]
    streamed = subprocess.run(
        [*command[:-1], json.dumps({**json.loads(body), "stream": True})], capture_output=True, check=True, text=True
    )
    assert streamed.stdout.rstrip().endswith("data: [DONE]")
