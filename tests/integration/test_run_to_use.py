"""From a quickstart to something that people use: registered, exported in every form, served, asked by a file.

One story on the starter model, by the commands that a user gives; it takes minutes and runs in `make test-full`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import httpx
import pytest

from tunesmith.catalog.cache import cache_folder
from tunesmith.runs.atomic import read_json

pytestmark = [
    pytest.mark.slow,
    pytest.mark.starter,
    pytest.mark.timeout(3000),
    pytest.mark.usefixtures("starter_model"),
]

VERSION = "support-router:1"
QUESTION = [{"role": "user", "content": "My parcel is three days late. Where is it?"}]
EXPORTS = [
    ("adapter", "auto"),
    ("merged", "auto"),
    ("gguf", "f16"),
    ("gguf", "q8_0"),
    ("gguf", "q4_0"),
    ("onnx", "fp32"),
    ("onnx", "int8"),
    ("onnx", "int4"),
    ("onnx-adapter", "auto"),
]


class Place:
    """A folder in which commands are given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "TUNESMITH_CACHE": str(cache_folder()), "NO_COLOR": "1"}

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "tunesmith"), *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, *words: str) -> Any:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "tunesmith"), *words, "--json"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Where the quickstart was done and registered."""
    place = Place(tmp_path_factory.mktemp("use"))
    place.call("quickstart")
    place.call("registry", "register", "quickstart", "--name", "support-router")
    place.call("registry", "promote", VERSION, "production")
    return place


def test_the_version_says_where_it_comes_from(place: Place) -> None:
    shown = json.dumps(place.call("registry", "show", "support-router@production"))
    for word in ("smollm2-135m-instruct", "apache-2.0", "quickstart", "production"):
        assert word.lower() in shown.lower(), word


@pytest.mark.parametrize(("form", "precision"), EXPORTS)
def test_every_export_is_made_of_the_version_and_checked(place: Place, form: str, precision: str) -> None:
    name = f"{form}-{precision}"
    place.call(
        *("export", VERSION, "--to", form, "--precision", precision, "--rows", "4"),
        *("--output", str(place.folder / "exports" / name)),
    )
    record = read_json(place.folder / "exports" / name / "export.json")
    # The folder is only there where the check was passed; the record says how closely.
    check = record["check"]
    assert check["divergence_nats"]["mean"] <= check["divergence_nats"]["limit_of_mean"]
    assert check["tokens_per_second"]["exported"] > 0
    assert set(check["metrics"]["exported"]) == set(check["metrics"]["pytorch"]) != set()
    assert record["size_bytes"] > 0


@pytest.fixture(scope="module")
def served(place: Place) -> Iterator[httpx.Client]:
    """The base, the version, and two exports behind one address."""
    process = place.start(
        *("serve", "base=smollm2-135m-instruct", f"router={VERSION}", "exports/gguf-q8_0", "exports/onnx-fp32"),
        *("--port", "0"),
    )
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if "/v1 answers for" in line:
            break
    assert lines
    assert "/v1 answers for" in lines[-1], "".join(lines)
    with httpx.Client(base_url=lines[-1].split("/v1")[0], timeout=300, trust_env=False) as client:
        yield client
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 0
    process.stdout.close()


def test_base_version_and_exports_answer_side_by_side(served: httpx.Client) -> None:
    said = {}
    for name in ("base", "router", "gguf-q8_0", "onnx-fp32"):
        body = {"model": name, "messages": QUESTION, "temperature": 0, "max_tokens": 24}
        answer = served.post("/v1/chat/completions", json=body).json()
        said[name] = answer["choices"][0]["message"]["content"]
    assert said["base"] != said["router"]
    # Whole numbers in another program say the same; eight bits may differ, within the limit of their export.
    assert said["onnx-fp32"] == said["router"]
    assert _likeness(said["gguf-q8_0"], said["router"]) > max(0.5, _likeness(said["gguf-q8_0"], said["base"]))
    assert b"tunesmith_requests_total" in served.get("/metrics").content


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one.split(), other.split(), autojunk=False).ratio()


def test_a_file_of_requests_is_answered_by_the_version(place: Place) -> None:
    requests = [
        {
            "custom_id": str(at),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": QUESTION, "max_tokens": 8},
        }
        for at in range(4)
    ]
    (place.folder / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in requests), encoding="utf-8")
    counts = place.call("batch", "in.jsonl", "out.jsonl", "--model", VERSION, "--ordered")
    assert (counts["requests"], counts["answered"], counts["refused"]) == (4, 4, 0)
    lines = [json.loads(line) for line in (place.folder / "out.jsonl").read_text("utf-8").splitlines()]
    assert [line["custom_id"] for line in lines] == ["0", "1", "2", "3"]
    assert all(line["response"]["status_code"] == 200 for line in lines)
