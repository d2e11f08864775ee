"""``tunesmith batch``: whole commands over real processes and tiny models; ended, gone on with, and refused."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from served_models import make_served
from tiny_models import tiny_encoder_folder

from tunesmith.cli import main
from tunesmith.jobs.batch import BatchFiles, begin_batch, sole_writer
from tunesmith.wire.batch import BatchResult

# PEFT asks for a property by a name that Transformers has just deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

TUNESMITH = Path(sys.executable).with_name("tunesmith")
PATIENCE_SECONDS = 180


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("batch")
    make_served(root)
    tiny_encoder_folder(root / "vectors")
    return root


@pytest.fixture
def call(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(root)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main.run(["batch", *map(str, arguments)])
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return run


def asking(name: str, words: str = "Where is my parcel?", tokens: int = 3, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": words}]
    plain = {"model": "base", "messages": messages, "temperature": 0, "max_tokens": tokens}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": {**plain, **body}}


def write(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines) + "\n")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def ids(path: Path) -> list[str]:
    return [line["custom_id"] for line in read(path)]


def test_every_fault_of_a_file_is_told_at_once_and_nothing_is_loaded(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    lines = [
        "\ufeff" + json.dumps(asking("one")),
        "{",
        "",
        json.dumps(asking("one")),
        json.dumps({**asking("get"), "method": "GET"}),
        json.dumps({**asking("where"), "url": "/v1/files"}),
        json.dumps({**asking("extra"), "surprise": 1}),
        json.dumps(asking("stream", stream=True)),
        json.dumps(asking("model", model=["a", "list"])),
        json.dumps({"custom_id": "", "method": "POST", "url": "/v1/completions", "body": {}}),
    ]
    source = write(tmp_path / "in.jsonl", lines)
    code, _, said = call(source, tmp_path / "out.jsonl", "--model", "base", "--model", "vectors")
    assert code == 11
    for number in (2, 5, 6, 7, 8, 9, 10):
        assert f"line {number}:" in said
    assert "line 4: custom_id is that of line 1 too: one" in said
    assert "line 1:" not in said.replace("of line 1 too", "")
    assert "served here: base, vectors" in said
    assert "loading" not in said
    assert list(tmp_path.iterdir()) == [source]


def test_files_that_are_empty_or_not_there(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, _, said = call(write(tmp_path / "in.jsonl", ["", "  "]), tmp_path / "out.jsonl", "--model", "base")
    assert (code, "no requests" in said) == (11, True)
    code, _, said = call(tmp_path / "nothing.jsonl", tmp_path / "out.jsonl", "--model", "base")
    assert (code, "no such file" in said) == (2, True)


def test_all_paths_refusals_apart_and_an_order_when_asked(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    lines: list[Any] = [asking(f"chat {at}", f"Question {at}", tokens=20 - at) for at in range(12)]
    completion = {"model": "base", "prompt": "The parcel", "max_tokens": 4, "temperature": 0}
    embedding = {"model": "vectors", "input": ["a", "b"]}
    lines.insert(2, {"custom_id": "text", "method": "POST", "url": "/v1/completions", "body": completion})
    lines.insert(5, {"custom_id": "vectors", "method": "POST", "url": "/v1/embeddings", "body": embedding})
    lines.insert(7, asking("refused", temperature=9))
    lines.insert(9, asking("wrong path", model="vectors"))
    source = write(tmp_path / "in.jsonl", lines)
    out = tmp_path / "deep" / "out.jsonl"
    models = ["--model", "base", "--model", "vectors"]
    code, printed, _ = call(source, out, *models, "--ordered", "--json", "--concurrency", "4")
    assert code == 11
    document = json.loads(printed)
    counts = {key: document[key] for key in ("requests", "answered_before", "answered", "refused")}
    assert counts == {"requests": 16, "answered_before": 0, "answered": 14, "refused": 2}
    wanted = [line["custom_id"] for line in lines]
    assert ids(out) == [name for name in wanted if name not in ("refused", "wrong path")]
    refused = read(tmp_path / "deep" / "out.errors.jsonl")
    assert [(line["custom_id"], line["response"]["status_code"]) for line in refused] == [
        ("refused", 400),
        ("wrong path", 400),
    ]
    assert refused[0]["response"]["body"]["error"]["param"] == "temperature"
    found = {line["custom_id"]: line["response"]["body"] for line in read(out)}
    assert found["chat 3"]["usage"]["completion_tokens"] == 17
    assert found["text"]["object"] == "text_completion"
    assert len(found["vectors"]["data"]) == 2
    assert len({line["id"] for line in read(out)}) == 14
    # Once more: nothing is left to ask, and nothing is asked.
    before = out.read_bytes()
    code, printed, said = call(source, out, *models, "--json")
    assert code == 11
    assert "loading" not in said
    assert json.loads(printed)["answered_before"] == 16
    assert json.loads(printed)["answered"] == 0
    assert out.read_bytes() == before


def test_output_of_another_batch_or_model_is_left_alone(
    call: Callable[..., tuple[int, str, str]], root: Path, tmp_path: Path
) -> None:
    first, second = (write(tmp_path / f"{at}.jsonl", [asking(f"id {at}"), asking("more")]) for at in range(2))
    out = tmp_path / "out.jsonl"
    out.write_text('{"somebody": "else"}\n')

    def refused(source: Path, model: str) -> str:
        before = out.read_bytes()
        code, _, said = call(source, out, "--model", model)
        assert code == 14
        # Told before a model is loaded.
        assert "loading" not in said
        assert out.read_bytes() == before
        return said

    assert "not of this batch" in refused(first, "base")
    out.unlink()
    assert begin_batch(BatchFiles(first, out), ["base"]) == set()
    answers = [BatchResult(id=f"batch_req_{at}", custom_id=f"id {at}", response=None) for at in range(2)]
    kept = b"".join(one.model_dump_json().encode() + b"\n" for one in answers)
    out.write_bytes(kept)
    assert "not of this batch" in refused(second, "base")
    assert "another --model: base" in refused(first, f"base={root / 'base'}")
    out.write_bytes(kept + b"something else\n")
    assert "out.jsonl:3" in refused(first, "base")


@pytest.mark.slow
def test_two_commands_never_write_one_output(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", [asking("one")]), tmp_path / "out.jsonl"
    with sole_writer(BatchFiles(source, out)):
        code, _, told = call(source, out, "--model", "base")
    assert code == 14
    assert "another command writes this output" in told
    assert "loading" not in told
    assert out.read_bytes() == b""
    # It is free again, and the empty file that was left is no other batch's.
    assert call(source, out, "--model", "base")[0] == 0
    assert ids(out) == ["one"]


@pytest.mark.slow
def test_a_command_that_was_killed_goes_on_and_asks_nothing_twice(
    call: Callable[..., tuple[int, str, str]], root: Path, tmp_path: Path
) -> None:
    names = [f"id {at}" for at in range(60)]
    source = write(tmp_path / "in.jsonl", [asking(name, f"Question {name}", tokens=60) for name in names])
    out = tmp_path / "out.jsonl"
    command = [str(TUNESMITH), "batch", str(source), str(out), "--model", "base", "--concurrency", "4"]
    for round_ in range(2):
        with subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            until(lambda least=20 * round_ + 7: out.exists() and out.read_bytes().count(b"\n") > least)
            process.kill()
        # As if the crash had torn the last line.
        torn = out.read_bytes()
        out.write_bytes(torn[: torn.rindex(b"\n", 0, -1) + 20])
    done = out.read_bytes().count(b"\n")
    assert 0 < done < 60
    code, printed, _ = call(source, out, "--model", "base", "--json")
    assert code == 0
    assert json.loads(printed)["answered_before"] == done
    assert json.loads(printed)["answered"] == 60 - done
    assert sorted(ids(out)) == sorted(names)
    whole = tmp_path / "whole.jsonl"
    assert call(source, whole, "--model", "base", "--ordered")[0] == 0
    texts = [{line["custom_id"]: said(line) for line in read(path)} for path in (out, whole)]
    assert texts[0] == texts[1]
    assert ids(whole) == names


def said(line: dict[str, Any]) -> str:
    return str(line["response"]["body"]["choices"][0]["message"]["content"])


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_what_was_asked(root: Path, tmp_path: Path) -> None:
    # Hours of it, at once and queued.
    lines = [asking(f"id {at}", tokens=150_000) for at in range(40)]
    source = write(tmp_path / "in.jsonl", [asking("short"), *lines])
    out = tmp_path / "out.jsonl"
    command = [str(TUNESMITH), "batch", str(source), str(out), "--model", "base", "--concurrency", "4"]
    # A suite that a shell runs in the background would hand down that the signal is ignored.
    listening = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = [sys.executable, "-c", listening, *command]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: out.exists() and out.read_bytes().count(b"\n") == 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert ids(out) == ["short"]


@pytest.mark.slow
def test_a_full_disk_is_told_and_what_was_answered_stays(
    call: Callable[..., tuple[int, str, str]], root: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "in.jsonl", [asking(f"id {at}") for at in range(30)])
    out = tmp_path / "out.jsonl"
    limit = 4000

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [str(TUNESMITH), "batch", str(source), str(out), "--model", "base"]
    ended = subprocess.run(
        command, cwd=root, capture_output=True, text=True, preexec_fn=limited, check=False, timeout=PATIENCE_SECONDS
    )
    assert ended.returncode == 14, ended.stderr
    assert "the disk is full" in ended.stderr
    assert out.stat().st_size <= limit
    done = out.read_bytes().count(b"\n")
    assert done > 0
    code, printed, _ = call(source, out, "--model", "base", "--json")
    assert code == 0
    assert json.loads(printed)["answered_before"] == done
    assert len(set(ids(out))) == len(ids(out)) == 30
