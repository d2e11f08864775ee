"""Small matrices of real runs by the command line: made, gone on with, widened, ended, and what could not run."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from real_worker import PATIENCE_SECONDS, Place, write_labelled

from tunesmith.matrix.cell import Matrix, read_matrix
from tunesmith.runs.events import read_events

TUNESMITH = Path(sys.executable).with_name("tunesmith")
SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = "Number {0} of the street has {1} windows, a red door and a dog that barks at every parcel of the day."


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("matrix"))
    write_labelled(place.folder / "rows.csv", 48)
    write_labelled(place.folder / "held.csv", 12, start=48)
    lines = [json.dumps({"text": TEXTS.format(at, at + 1)}) for at in range(60)]
    (place.folder / "texts.jsonl").write_text("\n".join(lines[:48]))
    (place.folder / "held.jsonl").write_text("\n".join(lines[48:]))
    return place


def start_matrix(place: Place, *words: str, budget: str = "600 tokens") -> subprocess.Popen[str]:
    """The command, with a folder of its own for what is temporary."""
    scratch = scratch_of(place)
    scratch.mkdir(exist_ok=True)
    mine = {"TUNESMITH_CACHE": str(place.folder / "cache"), "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [str(TUNESMITH), "matrix", "--model", str(place.model), "--budget", budget, *words],
        cwd=place.folder,
        env={**os.environ, **mine},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def matrix_command(place: Place, *words: str, budget: str = "600 tokens") -> subprocess.CompletedProcess[str]:
    return ended(start_matrix(place, *words, budget=budget))


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=280)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def scratch_of(place: Place) -> Path:
    return place.folder / "tmp"


def begun(answer: subprocess.CompletedProcess[str]) -> list[str]:
    """The cells that a command ran."""
    assert answer.returncode == 0, answer.stderr
    return [line.partition("] ")[2] for line in answer.stderr.splitlines() if line.startswith("[")]


@dataclass(frozen=True)
class Made:
    """What each command ran, and the folder that they wrote into."""

    folder: Path
    first: list[str]
    again: list[str]
    wider: list[str]
    ran_to: float

    @property
    def page(self) -> str:
        return (self.folder / "matrix.md").read_text()

    @property
    def matrix(self) -> Matrix:
        return read_matrix(self.folder / "matrix.json")


def sources(*names: str) -> Sequence[str]:
    files = {
        "text": ("texts.jsonl", "held.jsonl"),
        "classification": ("rows.csv", "held.csv"),
    }
    words: list[str] = []
    for name in names:
        train, held_out = files[name]
        words += ["--scenario", name, "--data", f"{name}={train}", "--validation", f"{name}={held_out}"]
    return words


@pytest.fixture(scope="module")
def made(place: Place) -> Made:
    """Full tuning, then the same again, then LoRA as well."""
    words = ("--no-sharing", *sources("text"))
    first = begun(matrix_command(place, "--technique", "full", *words))
    before = (place.folder / "matrix.json").read_bytes()
    again = begun(matrix_command(place, "--technique", "full", *words))
    assert (place.folder / "matrix.json").read_bytes() == before
    ran_to = read_matrix(place.folder / "matrix.json").results[0].seconds
    wider = begun(matrix_command(place, "--technique", "full", "--technique", "lora", *words))
    return Made(place.folder, first, again, wider, ran_to)


@pytest.mark.slow
def test_every_command_runs_what_is_missing_alone(made: Made) -> None:
    assert made.first == ["text with full tuning, seed 0"]
    assert made.again == []
    assert made.wider == ["text with LoRA, seed 0"]


def test_every_cell_has_real_numbers(made: Made) -> None:
    matrix = made.matrix
    assert len(matrix.results) == 2
    for result in matrix.results:
        outcome = result.outcome
        assert outcome is not None, result.failure
        assert outcome.gain is not None
        assert outcome.gain.low <= outcome.gain.value <= outcome.gain.high
        assert outcome.steps >= 1
        assert outcome.tokens_per_second > 0
        assert outcome.peak_memory_bytes > 50_000_000
        assert outcome.validation
        assert outcome.rows == 12
    assert matrix.results[0].seconds == made.ran_to, "what ran first was kept"
    (text,) = matrix.of("quality", "lora", "text")
    assert text.metric == "loss"
    assert text.gain is not None
    assert text.base is not None
    assert text.tuned is not None
    assert text.gain.value == pytest.approx(text.base - text.tuned, abs=1e-6), "a gain where the loss falls"
    full, lora = (matrix.of("quality", name, "text")[0].trained_parameters for name in ("full", "lora"))
    assert lora < full


def test_the_page_has_both_columns(made: Made) -> None:
    page = made.page
    assert "full tuning" in page.split("(`text`)")[1]
    assert "| LoRA |" in page.split("(`text`)")[1].split("##")[0]
    assert "| fewer trained parameters | **yes** ≠1 |" in page
    assert "2 runs" in page
    assert "Memory of several processes" not in page
    assert page.count("`tunesmith matrix ") == 2, "both commands that made it, each once"
    assert "--model model " in page, "a model that lies here is shown by its name"
    assert str(made.folder) not in page + (made.folder / "matrix.json").read_text()


def test_the_pictures_are_real(made: Made) -> None:
    png = (made.folder / "matrix.png").read_bytes()
    assert png.startswith(SIGNATURE)
    assert len(png) > 10_000
    svg = (made.folder / "matrix.svg").read_text()
    ElementTree.fromstring(svg)
    for title in ("full tuning", "LoRA", "Texts of a domain"):
        assert title in svg
    assert "](matrix.png)" in made.page


def test_nothing_is_left_but_the_four_files(made: Made) -> None:
    assert {path.name for path in made.folder.glob("matrix*")} == {
        f"matrix.{end}" for end in ("md", "json", "png", "svg")
    }
    assert not (made.folder / "runs").exists()
    assert list((made.folder / "tmp").iterdir()) == []


@pytest.mark.slow
def test_a_cell_that_cannot_run_says_why_in_the_page(place: Place) -> None:
    words = ("--scenario", "ner", "--data", "ner=rows.csv", "--technique", "full", "--no-sharing", "-o", "ner.md")
    assert begun(matrix_command(place, *words)) == ["ner with full tuning, seed 0"]
    (result,) = read_matrix(place.folder / "ner.json").results
    assert result.failure is not None
    assert result.failure.code == "task.shape"
    part = (place.folder / "ner.md").read_text().split("(`ner`)")[1]
    assert "No run of it has ended well." in part
    assert f"- full tuning: {result.failure.message}" in part
    assert not (place.folder / "ner.png").exists(), "there is nothing to draw"


@pytest.mark.slow
def test_a_further_scenario_is_added_to_what_is_there(place: Place, made: Made) -> None:
    shutil.copy(made.folder / "matrix.json", place.folder / "wide.json")
    words = ("--technique", "full", "--technique", "lora", "--no-sharing", *sources("classification"))
    begun_now = begun(matrix_command(place, *words, "-o", "wide.md"))
    assert begun_now == ["classification with full tuning, seed 0", "classification with LoRA, seed 0"]
    matrix = read_matrix(place.folder / "wide.json")
    assert matrix.results[:2] == made.matrix.results
    for name in ("full", "lora"):
        (outcome,) = matrix.of("quality", name, "classification")
        assert (outcome.metric, outcome.rows) == ("accuracy", 12)
        assert outcome.gain is not None
    page = (place.folder / "wide.md").read_text()
    for scenario in ("text", "classification"):
        assert "| LoRA |" in page.split(f"(`{scenario}`)")[1].split("##")[0]
    assert "4 runs" in page
    svg = (place.folder / "wide.svg").read_text()
    for title in ("Texts of a domain", "One label for a text"):
        assert title in svg


def workers_of(place: Place) -> list[int]:
    """Processes that work in a folder of the commands of this place."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if any(word.startswith(str(scratch_of(place))) for word in words):
            found.append(process.info["pid"])
    return found


@pytest.mark.slow
def test_a_command_that_is_asked_to_end_leaves_no_worker_and_goes_on_later(place: Place) -> None:
    """SIGTERM, which `kill`, `timeout` and systemd send, while the second of two cells trains."""
    words = ("--technique", "full", "--technique", "lora", "--no-sharing", *sources("text"), "-o", "ended.md")
    process = start_matrix(place, *words, budget="6k tokens")
    end = time.monotonic() + PATIENCE_SECONDS
    while not trains(place, "quality-text-lora-0"):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "the second cell does not train"
        time.sleep(0.01)
    assert workers_of(place) != []
    process.send_signal(signal.SIGTERM)
    answer = ended(process)
    assert answer.returncode == 130
    assert "what was measured so far is in ended.json; the same command goes on from there" in answer.stderr
    assert workers_of(place) == []
    assert list(scratch_of(place).iterdir()) == []
    (first,) = read_matrix(place.folder / "ended.json").results
    assert (first.cell.column, first.failure) == ("full", None)
    assert not (place.folder / "ended.md").exists(), "there is a page once all of it has run"

    assert begun(matrix_command(place, *words, budget="6k tokens")) == ["text with LoRA, seed 0"]
    results = read_matrix(place.folder / "ended.json").results
    assert results[0] == first
    assert [(one.cell.column, one.failure) for one in results] == [("full", None), ("lora", None)]
    assert "| LoRA |" in (place.folder / "ended.md").read_text()


def trains(place: Place, cell: str) -> bool:
    """Whether the run of a cell has taken its first step."""
    found = scratch_of(place).glob(f"*/{cell}/events.jsonl")
    return any(event.type == "step" for events in found for event in read_events(events))


@pytest.mark.slow
def test_two_processes_share_full_tuning(place: Place) -> None:
    """Data parallelism and ZeRO-3: each has a cell of quality and one of sharing."""
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed: pip install 'tunesmith[deepspeed]'")
    answer = matrix_command(place, "--technique", "ddp", "--technique", "zero", *sources("text"), "-o", "shared.md")
    assert len(begun(answer)) == 4
    matrix = read_matrix(place.folder / "shared.json")
    assert [result.failure for result in matrix.results] == [None] * 4
    for name in ("ddp", "zero"):
        (pooled,) = matrix.of("pooled", name)
        assert len(pooled.rank_memory_bytes) == 2
        assert all(size > 50_000_000 for size in pooled.rank_memory_bytes)
    page = (place.folder / "shared.md").read_text()
    part = page.split("## Memory of several processes")[1].split("##")[0]
    assert "| ZeRO-3 |" in part
    assert "data parallelism, " in part
    (row,) = (line for line in page.splitlines() if line.startswith("| data parallelism that pools"))
    cells = [one.strip() for one in row.strip("|").split("|")]
    assert cells[5] != "–", "ZeRO is answered"
    assert cells[4] == "–", "DeepSpeed was not run"
