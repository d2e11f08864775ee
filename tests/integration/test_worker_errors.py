"""Bad input by the real worker: the exit code of its class, a named code, where it is, and what to do about it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from real_worker import Place, RealRun, write_chat, write_labelled

import tunesmith
from tunesmith.errors import DataError, OutputError, RunError
from tunesmith.executors.local.worker import WORKER_COMMAND
from tunesmith.jobs.inference_process import serving_command


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("errors"))
    folder = place.folder
    write_labelled(folder / "rows.csv", 24)
    write_labelled(folder / "one.csv", 1)
    write_chat(folder / "rows.jsonl", 12)
    (folder / "empty.jsonl").write_text("")
    (folder / "header.csv").write_text("text,label\n")
    (folder / "unlabelled.csv").write_text(
        "text,label\n" + "".join(f"text {number},{'a' * (number > 2)}\n" for number in range(12))
    )
    (folder / "bad.jsonl").write_text((folder / "rows.jsonl").read_text() + '{"messages": \n')
    long = json.dumps({"messages": [{"role": "user", "content": "a b " * 600}, {"role": "assistant", "content": "c"}]})
    (folder / "long.jsonl").write_text((folder / "rows.jsonl").read_text() + long + "\n")
    config = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 32, "num_hidden_layers": 2}
    # Twelve heads, which is what such a config means, do not share 32 numbers evenly.
    for name, heads in (("bad_config", {}), ("encoder", {"num_attention_heads": 4})):
        (folder / name).mkdir()
        for file in place.model.iterdir():
            (folder / name / file.name).write_bytes(file.read_bytes())
        (folder / name / "config.json").write_text(json.dumps(config | heads))
    return place


CASES: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("empty", {"data": {"train": "empty.jsonl"}}, 11, "data.empty", "empty.jsonl"),
    ("header", {"data": {"train": "header.csv"}}, 11, "data.header_only", "header.csv"),
    ("one", {"data": {"train": "one.csv"}}, 11, "data.too_small_to_split", "one.csv"),
    ("unlabelled", {"data": {"train": "unlabelled.csv"}}, 11, "data.", "unlabelled.csv:2"),
    ("bad", {"data": {"train": "bad.jsonl"}}, 11, "data.", "bad.jsonl:13"),
    ("long", {"data": {"train": "long.jsonl"}}, 12, "supervision.", "long.jsonl:13"),
    ("missing-data", {"data": {"train": "nothing.csv"}}, 11, "data.", "nothing.csv"),
    ("bad-config", {"model": "bad_config", "data": {"train": "rows.csv"}}, 13, "model.broken_config", "bad_config"),
    ("encoder", {"model": "encoder", "data": {"train": "rows.jsonl"}}, 10, "recipe.head_rows", "objective"),
    ("missing-model", {"model": "./none", "data": {"train": "rows.csv"}}, 13, "model.missing_folder", "./none"),
    ("key", {"data": {"train": "rows.csv", "vaildation": 0.1}}, 10, "recipe.unknown_key", "data.vaildation"),
    ("shape", {"data": {"train": "rows.csv"}, "task": "chat"}, 10, "task.shape", "task"),
    (
        "curve",
        {"data": {"train": "rows.csv"}, "train": {"budget": "60s"}, "evaluate": {"learning_curve": True}},
        10,
        "recipe.budget_learning_curve",
        "evaluate.learning_curve",
    ),
]


@pytest.mark.parametrize(("name", "recipe", "exit_code", "code", "where"), CASES, ids=[case[0] for case in CASES])
def test_bad_input_is_refused_with_its_place(
    place: Place, name: str, recipe: dict[str, Any], exit_code: int, code: str, where: str
) -> None:
    run = place.run(name, recipe)
    assert run.work() == exit_code
    assert run.states[-1] == "failed"
    found = run.problems
    assert any(problem["code"].startswith(code) for problem in found), found
    assert any(where in f"{problem['place']} {problem['message']} {problem['value']}" for problem in found), found
    assert any(problem["hint"] for problem in found), found
    assert not run.folder.manifest.exists()
    assert not list(run.folder.path.glob("adapter*"))


def test_a_model_with_another_vocabulary_than_its_tokenizer_fails_before_training(tmp_path: Path) -> None:
    place = Place.make(tmp_path, vocab_size=100)
    write_labelled(tmp_path / "rows.csv", 12)
    run = place.run("small", {"data": {"train": "rows.csv"}})
    assert run.work() == 13
    assert run.error["code"].startswith("model.")


def test_a_file_in_the_way_of_the_runs_folder_is_an_output_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.folder)
    Path("inway").write_text("")
    recipe = {"model": "model", "data": {"train": "rows.csv"}}
    with pytest.raises(OutputError):
        tunesmith.train(recipe, output="inway")
    with pytest.raises(DataError):
        tunesmith.train({**recipe, "data": {"train": "bad.jsonl"}}, output="new")
    assert not Path("new").exists()


def test_a_name_is_taken_once_and_an_error_of_the_worker_crosses_the_border(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.folder)
    monkeypatch.setenv("TUNESMITH_CACHE", str(place.folder / "cache"))
    recipe = {"model": "model", "data": {"train": "long.jsonl"}}
    with pytest.raises(tunesmith.errors.SupervisionError) as caught:
        tunesmith.train(recipe, name="taken", output="others")
    assert "long.jsonl:13" in str(caught.value)
    assert not Path("others/taken").exists()
    (Path("others") / "taken").mkdir(parents=True)
    with pytest.raises(RunError) as refused:
        tunesmith.train(recipe, name="taken", output="others")
    assert refused.value.code == "run.exists"


def test_a_run_that_a_living_worker_owns_is_left_alone(place: Place) -> None:
    run: RealRun = place.run("owned", {"data": {"train": "rows.csv"}, "evaluate": {"max_new_tokens": 200}})
    first = run.start()
    first.until(lambda events: len(events) > 2)
    assert run.work() == 15
    assert first.wait() == 0
    assert "another worker owns this run" in run.folder.log.read_text()
    assert {event.attempt for event in run.events} == {1}


@pytest.mark.parametrize("module", ["tunesmith.worker", "tunesmith.inference"])
def test_a_file_that_is_named_like_a_library_is_not_run(tmp_path: Path, module: str) -> None:
    (tmp_path / "argparse.py").write_text("raise SystemExit('this ran')\n")
    command = WORKER_COMMAND if module == "tunesmith.worker" else serving_command(tmp_path)[:4]
    assert command[-1] == module
    done = subprocess.run([*command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "this ran" not in done.stdout + done.stderr
