"""``tunesmith serve`` as its users start and end it: real processes, tiny models."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from served_models import make_served
from tiny_models import tiny_model_folder

from tunesmith.cli import main

# PEFT asks for a property by a name that Transformers has just deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

TUNESMITH = Path(sys.executable).with_name("tunesmith")
PATIENCE_SECONDS = 120
QUESTION = [{"role": "user", "content": "Where is my parcel?"}]
SECRETS = ("alices-own-secret", "bobs-own-secret")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a run with an adapter on it, another base, and a file of keys."""
    root = tmp_path_factory.mktemp("serve")
    base, tuned, _ = make_served(root)
    run = root / "runs" / "lora"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("model: base\n")
    (run / "manifest.json").write_text(json.dumps({"model": {"name": str(base.folder)}}))
    assert tuned.adapter is not None
    shutil.move(tuned.adapter, run / "adapter")
    tiny_model_folder("gemma2", root / "a=b")
    (root / "keys").write_text(f"# who may ask\n\nalice = {SECRETS[0]}\nbob={SECRETS[1]}\n")
    return root


@dataclass
class Running:
    """A command that serves."""

    process: subprocess.Popen[str]
    said: str
    base_url: str
    scratch: Path

    def post(self, path: str, key: str = "", **body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        plain = {"model": "tuned", "messages": QUESTION, "temperature": 0, "max_tokens": 5}
        return httpx.post(
            f"{self.base_url}{path}", json={**plain, **body}, headers=headers, timeout=60, trust_env=False
        )

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@contextmanager
def starting(root: Path, scratch: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    scratch.mkdir()
    process = subprocess.Popen(
        [str(TUNESMITH), "serve", *arguments, "--port", "0"],
        cwd=root,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        with process:
            process.kill()


@contextmanager
def serving(root: Path, scratch: Path, *arguments: str) -> Iterator[Running]:
    with starting(root, scratch, *arguments) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("http://"), process.stderr.read() if process.stderr else ""
        yield Running(process, line.strip(), line.split("/v1 ")[0], scratch)


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_served_by_names_with_keys_until_ctrl_c_which_lets_streams_end(root: Path, tmp_path: Path) -> None:
    names = ["base", "tuned=lora", "a=b"]
    with serving(root, tmp_path / "scratch", *names, "--keys", "keys") as running:
        assert running.said == f"{running.base_url}/v1 answers for base, tuned, a=b"
        headers = {"Authorization": f"Bearer {SECRETS[1]}"}
        listed = httpx.get(f"{running.base_url}/v1/models", headers=headers, trust_env=False).json()
        assert [one["id"] for one in listed["data"]] == ["base", "tuned", "a=b"]
        answers = [running.post("/v1/chat/completions", SECRETS[0], model=one["id"]) for one in listed["data"]]
        texts = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
        assert len(set(texts)) == 3
        assert running.post("/v1/chat/completions").status_code == 401
        assert running.post("/v1/chat/completions", "alices-own-secre").status_code == 401
        (child,) = running.children()
        whole = {"model": "base", "messages": QUESTION, "temperature": 0, "max_tokens": 400, "stream": True}
        url = f"{running.base_url}/v1/chat/completions"
        with httpx.stream("POST", url, json=whole, headers=headers, timeout=60, trust_env=False) as stream:
            lines = stream.iter_lines()
            events = [next(lines) for _ in range(4)]
            running.process.send_signal(signal.SIGINT)
            events += list(lines)
        data = [line.removeprefix("data: ") for line in events if line]
        assert data[-1] == "[DONE]"
        assert json.loads(data[-2])["choices"][0]["finish_reason"] == "length"
        assert running.process.wait(PATIENCE_SECONDS) == 0
        assert not child.is_running()
        # The keys lay there.
        assert list(running.scratch.iterdir()) == []
        assert running.process.stderr is not None
        errors = running.process.stderr.read()
    assert "Traceback" not in errors
    assert not any(secret in errors for secret in SECRETS)


@pytest.mark.slow
def test_whoever_is_killed_leaves_neither_process_nor_keys(root: Path, tmp_path: Path) -> None:
    with serving(root, tmp_path / "scratch", "base", "--keys", "keys") as running:
        (child,) = running.children()
        running.process.kill()
        running.process.wait()
        psutil.wait_procs([child], timeout=PATIENCE_SECONDS)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        left = [path for path in running.scratch.rglob("*") if path.is_file()]
        assert not any(secret in path.read_text(errors="replace") for path in left for secret in SECRETS)


@pytest.mark.slow
def test_ctrl_c_while_it_loads_ends_it(root: Path, tmp_path: Path) -> None:
    with starting(root, tmp_path / "scratch", "base") as process:
        assert process.stderr is not None
        assert process.stderr.readline().strip() == "loading base"
        until(lambda: bool(psutil.Process(process.pid).children()))
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert "Traceback" not in process.stderr.read()


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_for_streams(root: Path, tmp_path: Path) -> None:
    with serving(root, tmp_path / "scratch", "base") as running:
        endless = {"model": "base", "messages": QUESTION, "max_tokens": 150_000, "stream": True}
        url = f"{running.base_url}/v1/chat/completions"
        with httpx.stream("POST", url, json=endless, timeout=60, trust_env=False) as stream:
            lines = stream.iter_lines()
            next(lines)
            (child,) = running.children()
            running.process.send_signal(signal.SIGINT)
            # It listens no more, and goes on to write.
            until(lambda: not _answers(running.base_url))
            assert child.is_running()
            running.process.send_signal(signal.SIGINT)
            with pytest.raises(httpx.HTTPError):
                for _ in lines:
                    pass
        assert running.process.wait(PATIENCE_SECONDS) == 0
        assert not child.is_running()


def _answers(base_url: str) -> bool:
    try:
        return httpx.get(f"{base_url}/health", trust_env=False).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_addresses_of_ipv6(root: Path, tmp_path: Path) -> None:
    with serving(root, tmp_path / "scratch", "base", "--host", "::1") as running:
        assert running.base_url.startswith("http://[::1]:")
        assert running.post("/v1/chat/completions", model="base").status_code == 200


@pytest.fixture
def call(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    monkeypatch.chdir(root)
    monkeypatch.delenv("TUNESMITH_API_KEY", raising=False)

    def run(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        code = main.run(["serve", *arguments])
        return code, capfd.readouterr().err

    return run


def test_a_port_that_is_taken_is_told(call: Callable[..., tuple[int, str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = call("base", "--port", str(port))
    assert code == 20
    assert f"127.0.0.1:{port}: cannot listen there" in said
    assert "--port" in said


def test_beyond_this_machine_a_key_is_needed(call: Callable[..., tuple[int, str]]) -> None:
    code, said = call("base", "--host", "0.0.0.0")
    assert code == 2
    assert "0.0.0.0" in said
    assert "--keys" in said


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("alice=long-enough-secret\nno separator here-secret\n", "faulty:2"),
        ("alice=short", "faulty:1"),
        ("=nobodys-long-secret", "faulty:1"),
        ("alice=one-long-secret\nalice=two-long-secret", "faulty:2"),
        ("alice=same-long-secret\nbob=same-long-secret", "faulty:2"),
        ("# nothing but words\n", "faulty"),
        (None, "faulty"),
    ],
)
def test_faults_of_the_keys_are_told_without_the_keys(
    call: Callable[..., tuple[int, str]], tmp_path: Path, text: str | None, place: str
) -> None:
    path = tmp_path / "faulty"
    if text is not None:
        path.write_text(text)
    code, said = call("base", "--keys", str(path))
    assert code == 2
    assert place in said
    assert "secret" not in said
    assert "short" not in said


def test_models_that_are_not_there_and_names_that_come_twice(call: Callable[..., tuple[int, str]]) -> None:
    code, said = call("base", "./nothing-here")
    assert code != 0
    assert "nothing-here" in said
    code, said = call("same=base", "same=lora", "base", "base")
    assert code == 2
    assert said.count("two models have this name") == 2


@pytest.mark.slow
def test_versions_that_are_registered_while_it_serves_are_answered_for(tmp_path: Path) -> None:
    base, one, two = make_served(tmp_path / "models")
    other = tiny_model_folder("gemma2", tmp_path / "other")
    registry = ("--registry", str(tmp_path / "registry"))

    def register(name: str, folder: Path | None, of: Path) -> None:
        assert main.run(["registry", "register", str(folder), "--name", name, "--base", str(of), *registry]) == 0

    with (
        pytest.MonkeyPatch.context() as patch,
        serving_registry(patch, tmp_path, str(base.folder)) as running,
    ):
        said = {}
        assert running.post("/v1/chat/completions", model="router:1").status_code == 404
        register("router", one.adapter, base.folder)
        for name in ("base", "router:1", "router:1"):
            answer = running.post("/v1/chat/completions", model=name).json()
            assert answer["model"] == name
            said[name] = answer["choices"][0]["message"]["content"]
        assert said["router:1"] != said["base"]
        # A stage means what it means now.
        register("router", two.adapter, base.folder)
        for number in (1, 2):
            assert main.run(["registry", "promote", f"router:{number}", "production", *registry]) == 0
            staged = running.post("/v1/chat/completions", model="router@production").json()
            said[f"as {number}"] = staged["choices"][0]["message"]["content"]
        assert said["as 1"] == said["router:1"] != said["as 2"]
        listed = httpx.get(f"{running.base_url}/v1/models", trust_env=False).json()["data"]
        assert [model["id"] for model in listed][-2:] == ["router:1", "router:2"]
        # Used versions stay; what has another base is told so.
        assert main.run(["registry", "remove", "router:1", "--yes", "--force", *registry]) != 0
        register("foreign", one.adapter, other)
        refused = running.post("/v1/chat/completions", model="foreign:1")
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        assert "its base is not served here" in refused.json()["error"]["message"]
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE_SECONDS) == 0
    assert main.run(["registry", "remove", "router:1", "--yes", "--force", *registry]) == 0


@contextmanager
def serving_registry(patch: pytest.MonkeyPatch, folder: Path, *models: str) -> Iterator[Running]:
    """A server that answers for the versions of a registry."""
    patch.setenv("TUNESMITH_REGISTRY", str(folder / "registry"))
    patch.setenv("TUNESMITH_CACHE", str(folder / "cache"))
    with serving(folder, folder / "scratch", f"base={models[0]}", *models[1:], "--registered") as running:
        yield running
