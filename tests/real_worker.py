"""The real worker in a process of its own, quickly: one helper imports the libraries once and forks for each run.

place = Place.make(tmp_path)                   # a folder with a tiny model and a cache of its own
run = place.run("one", {"data": {...}})        # runs/one with its recipe; model and small settings are filled in
finished = run.work()                          # as `python -m tunesmith.worker runs/one`, waited for
worker = run.start(); worker.kill(); worker.wait()
"""

from __future__ import annotations

import atexit
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tiny_models import tiny_model_folder

from tunesmith.models.host import processor_name
from tunesmith.runs.events import Event, read_events
from tunesmith.runs.layout import RunFolder

PATIENCE_SECONDS = 60.0
# Epochs that no machine is through with before a test has done what it wants to do to the run.
ENDLESS = 20_000


class Server:
    """The helper process: takes a line of JSON for each fork and answers with the child's id or exit code."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self.close)

    def ask(self, **question: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # A test may have a storage or a cache of data sets of its own, which the helper was started without.
        own = ("AWS_", "AZURE_", "HF_")
        question["storage"] = {name: os.environ[name] for name in os.environ if name.startswith(own)}
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@cache
def server() -> Server:
    """The one helper of this test session."""
    return Server()


@dataclass(frozen=True)
class Working:
    """A worker that was started."""

    folder: Path
    pid: int
    earlier: int

    @property
    def events(self) -> list[Event]:
        """The events of this worker, without those of earlier attempts."""
        return list(read_events(self.folder / "events.jsonl", self.earlier))

    def until(self, found: Callable[[list[Event]], bool]) -> None:
        """Wait until the events show something."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not found(self.events):
            assert time.monotonic() < end, self.events[-3:]
            time.sleep(0.002)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """The exit code; negative for a signal."""
        return server().ask(wait=self.pid)


@dataclass(frozen=True)
class Place:
    """Where a test's model, data, runs and cache lie."""

    folder: Path
    model: Path

    @classmethod
    def make(cls, folder: Path, family: str = "llama", **config: Any) -> Place:
        # What the probe of the machine would find, which takes a second of every run on a busy machine.
        key = f"{processor_name()} | torch {torch.__version__} | 1 threads"
        (folder / "cache").mkdir()
        (folder / "cache" / "host.json").write_text(json.dumps({key: {"float32": 1e11, "bfloat16": 1e11}}))
        return cls(folder, tiny_model_folder(family, folder / "model", **config))

    def run(self, name: str, recipe: Mapping[str, Any]) -> RealRun:
        """A run folder with a recipe on the tiny model; training is short unless the recipe says otherwise."""
        run = RunFolder(self.folder / "runs" / name)
        run.path.mkdir(parents=True)
        whole = {"model": str(self.model), **recipe}
        whole["train"] = {
            "epochs": 2,
            "learning_rate": 0.01,
            "tokens_per_step": 600,
            "precision": "float32",
            **recipe.get("train", {}),
        }
        whole["evaluate"] = {"max_new_tokens": 4, "few_shot": 0, "samples": 2, **recipe.get("evaluate", {})}
        run.recipe.write_text(json.dumps(whole))
        return RealRun(run, self)

    def stage(self, stage: str, request: Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> RealRun:
        """A scratch folder of a stage."""
        folder = self.folder / f"scratch-{stage}-{time.monotonic_ns()}"
        folder.mkdir()
        (folder / "request.json").write_text(json.dumps(request))
        if recipe is not None:
            (folder / "recipe.yaml").write_text(json.dumps({"model": str(self.model), **recipe}))
        return RealRun(RunFolder(folder), self, stage)


@dataclass(frozen=True)
class RealRun:
    """A folder to work in."""

    folder: RunFolder
    place: Place
    stage: str = "train"

    def start(self, *, file_bytes: int | None = None) -> Working:
        earlier = max((event.seq for event in self.events), default=0)
        pid = server().ask(
            arguments=[str(self.folder.path), "--stage", self.stage],
            cwd=str(self.place.folder),
            log=str(self.folder.path / "worker.log"),
            file_bytes=file_bytes,
        )
        return Working(self.folder.path, pid, earlier)

    def work(self, *, file_bytes: int | None = None) -> int:
        """Start and wait; the exit code."""
        return self.start(file_bytes=file_bytes).wait()

    def done(self) -> RealRun:
        """Work, which must end well."""
        code = self.work()
        assert code == 0, (self.folder.path / "worker.log").read_text()[-3000:]
        return self

    @property
    def events(self) -> list[Event]:
        return list(read_events(self.folder.events))

    @property
    def states(self) -> list[str]:
        return [event.data["state"] for event in self.events if event.type == "status"]

    @property
    def warnings(self) -> dict[str, str]:
        return {event.data["code"]: event.data["message"] for event in self.events if event.type == "warning"}

    @property
    def error(self) -> dict[str, Any]:
        last = self.events[-1]
        assert last.type == "error", last
        return last.data

    @property
    def problems(self) -> list[dict[str, Any]]:
        """The error and each of its problems."""
        return [self.error, *self.error["problems"]]

    @property
    def report(self) -> dict[str, Any]:
        return json.loads(self.folder.report_json.read_text())

    @property
    def systems(self) -> dict[str, dict[str, Any]]:
        return {system["name"]: system for system in self.report["systems"]}

    @property
    def resolved(self) -> dict[str, Any]:
        raw = json.loads(self.folder.resolved.read_text())
        return {key: entry["value"] for side in ("portable", "host") for key, entry in raw[side].items()}


def write_labelled(path: Path, rows: int, *, labels: Sequence[str] = ("down", "up"), start: int = 0) -> Path:
    """A CSV file of texts with labels, which a model can learn."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(start, start + rows):
            label = labels[number % len(labels)]
            writer.writerow([f"message {number} goes {label} the street", label])
    return path


def write_chat(path: Path, rows: int, *, turns: int = 1, start: int = 0) -> Path:
    """Conversations whose answers are JSON objects."""
    lines = []
    for number in range(start, start + rows):
        messages = [{"role": "system", "content": "Route it."}]
        for turn in range(turns):
            answer = json.dumps({"queue": "ab"[(number + turn) % 2]})
            messages.append({"role": "user", "content": f"ticket {number} turn {turn}"})
            messages.append({"role": "assistant", "content": answer})
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines) + "\n")
    return path


def _serve() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    answers = os.dup(1)
    os.dup2(2, 1)
    from importlib import import_module

    # What a worker imports on its way, once here and not in every child.
    for name in ("peft", "matplotlib.pyplot", "transformers.models.llama.modeling_llama", "sklearn.metrics"):
        import_module(name)
    for name in ("evaluation.report.write", "pipeline.stages", "pipeline.train", "pipeline.export"):
        import_module(f"tunesmith.{name}")
    from tunesmith import worker

    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            answer = os.waitstatus_to_exitcode(os.waitpid(question["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                code = 99
                try:
                    code = _child(worker.main, question)
                finally:
                    sys.stderr.flush()
                    os._exit(code)
        os.write(answers, f"{answer}\n".encode())


def _child(main: Callable[[Sequence[str]], int], question: dict[str, Any]) -> int:
    import resource

    log = os.open(question["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(question["cwd"])
    os.environ["TUNESMITH_CACHE"] = str(Path(question["cwd"]) / "cache")
    os.environ.update(question["storage"])
    if question["file_bytes"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (question["file_bytes"],) * 2)
    return main(question["arguments"])


if __name__ == "__main__":
    _serve()
