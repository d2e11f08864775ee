"""From a recipe to a run and its report by the command line and by Python; the worker follows a plan."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import fake_tunesmith
import fake_worker
import pytest
import yaml

import tunesmith
from tunesmith.cli import main
from tunesmith.errors import DataError, RecipeError, RunError
from tunesmith.executors.local import worker as local
from tunesmith.jobs.states import run_status
from tunesmith.runs.layout import RunFolder

MODEL = "smollm2-135m-instruct"
REPORT = {
    "format": 1,
    "run": "x",
    "primary_metric": "accuracy",
    "systems": [
        {"name": "base", "loss": {"value": 2.0}, "metrics": {"accuracy": {"value": 0.25}}},
        {"name": "tuned", "loss": {"value": 0.5}, "metrics": {"accuracy": {"value": 0.75}}},
    ],
}
RESOLVED = {
    "portable": {
        "train.epochs": {"value": 3.0, "reason": "auto: three times over few rows"},
        "train.seed": {"value": 0, "reason": "default"},
    },
    "host": {"train.precision": {"value": "float32", "reason": "auto: faster here"}},
    "identity": "abc",
}
AUDIT = {"ok": True, "checks": [{"name": "trained tokens", "ok": True, "detail": "", "problems": []}], "shown": []}


def status(state: str) -> list:
    return ["event", "status", None, {"state": state}]


TRAINS = [
    status("started"),
    ["write", "resolved.json", RESOLVED],
    ["event", "artifact", None, {"kind": "resolved", "path": "resolved.json"}],
    ["event", "warning", None, {"code": "data.duplicates", "message": "3 rows are duplicates"}],
    ["event", "step", 5, {"loss": 1.0, "total_steps": 5}],
    ["write", "report.json", REPORT],
    ["write", "report.html", "<html></html>"],
    ["folder", "adapter"],
    status("finished"),
]
AUDITS = [["write", "audit.json", AUDIT], ["write", "resolved.json", RESOLVED]]


class Answer:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "WORKER_COMMAND", fake_worker.COMMAND)
    monkeypatch.setenv("FAKE_PLAN", str(tmp_path / "plan.json"))
    rows = [{"text": f"message {number}", "label": "ab"[number % 2]} for number in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def write(actions: list | dict) -> None:
        (tmp_path / "plan.json").write_text(json.dumps(actions))

    write({"train": TRAINS, "audit": AUDITS})
    return write


@pytest.fixture
def call(plan, capsys):
    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        code = main.run(list(arguments))
        printed = capsys.readouterr()
        return Answer(code, printed.out, printed.err)

    return run


def runs() -> list[str]:
    return sorted(path.name for path in Path("runs").iterdir()) if Path("runs").exists() else []


def recipe_of(name: str) -> dict:
    return yaml.safe_load((Path("runs") / name / "recipe.yaml").read_text())


def test_model_and_data_are_enough(call):
    answer = call("train", "--model", MODEL, "--data", "rows.jsonl")
    assert answer.code == 0, answer.err
    assert runs() == [f"{MODEL}-1"]
    recipe = recipe_of(f"{MODEL}-1")
    assert recipe == {"model": MODEL, "data": {"train": "rows.jsonl"}}, "as it was given, without defaults"
    for part in ("train.epochs", "three times over few rows", "train.precision", "warning: 3 rows are duplicates"):
        assert part in answer.err
    assert "train.seed" not in answer.err
    for part in ("accuracy", "0.250", "0.750", f"runs/{MODEL}-1/report.html", f"tunesmith chat {MODEL}-1 --compare"):
        assert part in answer.out
    assert call("train", "--model", MODEL, "--data", "rows.jsonl").code == 0
    assert runs() == [f"{MODEL}-1", f"{MODEL}-2"]


def test_settings_win_over_options_and_options_over_the_recipe(call):
    Path("recipe.yaml").write_text(
        "model: nosuch\ndata: {train: nofile.jsonl, validation: 0.3}\ntrain: {epochs: 1, seed: 1}\n"
    )
    options = ["--model", MODEL, "--data", "rows.jsonl", "--validation", "0.25", "--technique", "full", "--name", "a"]
    settings = ["train.epochs=2", "train.seed=7", "train.budget=10m"]
    assert call("train", "recipe.yaml", *options, "--column", "text=text", *settings).code == 0
    recipe = recipe_of("a")
    assert recipe["model"] == MODEL
    assert recipe["data"]["validation"] == 0.25
    assert recipe["data"]["columns"] == {"text": "text"}
    assert recipe["technique"]["name"] == "full"
    assert (recipe["train"]["epochs"], recipe["train"]["seed"], recipe["train"]["budget"]) == (2, 7, "10m")


def test_a_wrong_setting_is_not_said_to_stand_in_a_line_of_the_file(call):
    Path("recipe.yaml").write_text(f"model: {MODEL}\ndata: {{train: rows.jsonl}}\ntrain:\n  epochs: 1\n  seed: x\n")
    answer = call("train", "recipe.yaml", "train.epochs=many", "technique.rank=0")
    assert "train.seed (line 5)" in answer.err
    assert "train.epochs" in answer.err
    assert "train.epochs (line" not in answer.err


def test_names_that_look_like_other_yaml_stay_names(call):
    Path("1e3").write_text(Path("rows.jsonl").read_text())
    answer = call("train", "--model", MODEL, "--data", "rows.jsonl", "--validation", "1e3", "--name", "a")
    assert answer.code == 0, answer.err
    assert recipe_of("a")["data"]["validation"] == "1e3"


def test_json_is_one_document_with_the_report(call):
    answer = call("train", "--model", MODEL, "--data", "rows.jsonl", "--name", "a", "--json")
    found = json.loads(answer.out)
    assert (found["run"], found["state"], found["metrics"]) == ("a", "finished", {"accuracy": 0.75, "loss": 0.5})
    assert found["report"]["systems"][0]["name"] == "base"


def test_detached_runs_are_followed_later(call):
    command = [sys.executable, fake_tunesmith.__file__, "train", "--model", MODEL, "--data", "rows.jsonl"]
    answer = subprocess.run([*command, "--name", "a", "--detach"], capture_output=True, text=True, check=True)
    assert answer.stdout == "started a; follow it with: tunesmith runs resume a\n"
    assert call("runs", "resume", "a").code == 0
    assert run_status(RunFolder(Path("runs/a"))).state == "finished"


def test_a_tracker_gets_every_event(call):
    pytest.importorskip("tensorboardX")
    answer = call("train", "--model", MODEL, "--data", "rows.jsonl", "--name", "a", "--track", "tensorboard")
    assert answer.code == 0, answer.err
    assert any(Path("runs/a/tensorboard").rglob("events.out*"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train"], 2, "a recipe file is needed"),
        (["train", "--model", MODEL], 2, "a recipe file is needed"),
        (["train", "a.yaml", "b.yaml"], 2, "more than one recipe file"),
        (["train", "nofile.yaml"], 10, "no such recipe file"),
        (["train", "--model", MODEL, "--data", "rows.jsonl", "train.epoch=2"], 10, "did you mean epochs?"),
        (["train", "--model", MODEL, "--data", "row.jsonl"], 11, "did you mean rows.jsonl?"),
        (["train", "--model", MODEL, "--data", "empty.jsonl"], 11, "empty"),
        (["train", "--model", "smollm2-135m-instrukt", "--data", "rows.jsonl"], 13, MODEL),
        (["train", "--model", MODEL, "--data", "rows.jsonl", "--name", "a/b"], 15, "not a usable run name"),
        (["train", "--model", MODEL, "--data", "rows.jsonl", "--track", "nosuch"], 2, "no such tracker"),
    ],
)
def test_bad_input_is_refused_and_leaves_no_run(call, arguments, code, message):
    Path("empty.jsonl").touch()
    answer = call(*arguments)
    assert (answer.code, answer.out) == (code, "")
    assert message in answer.err
    assert runs() == []


def test_a_second_run_of_a_name_is_refused(call):
    arguments = ["train", "--model", MODEL, "--data", "rows.jsonl", "--name", "a"]
    assert call(*arguments).code == 0
    before = (Path("runs/a/events.jsonl")).read_bytes()
    answer = call(*arguments)
    assert answer.code == 15
    assert "tunesmith runs resume a" in answer.err
    assert Path("runs/a/events.jsonl").read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_a_clear_error(call, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert call("train", "--model", MODEL, "--data", "rows.jsonl", "--output", "closed").code == 14


def test_an_output_that_is_a_file_is_a_clear_error(call, tmp_path):
    answer = call("train", "--model", MODEL, "--data", "rows.jsonl", "--output", "rows.jsonl")
    assert answer.code == 14
    assert "rows.jsonl" in answer.err


def test_what_the_worker_refuses_frees_the_name(call, plan):
    error = DataError("one row cannot be split", code="data.one_row", hint="add rows")
    plan([["event", "error", None, error.to_json()], status("failed"), ["exit", 11]])
    answer = call("train", "--model", MODEL, "--data", "rows.jsonl", "--name", "a")
    assert answer.code == 11
    assert answer.err.endswith("error: one row cannot be split\n  hint: add rows\n")
    assert runs() == []


def test_dry_run_prints_the_resolved_recipe_and_makes_no_run(call):
    arguments = ["train", "--model", MODEL, "--data", "rows.jsonl", "train.seed=0", "--dry-run"]
    answer = call(*arguments)
    assert answer.code == 0, answer.err
    resolved = yaml.safe_load(answer.out)
    assert (resolved["model"], resolved["train"]["epochs"], resolved["train"]["seed"]) == (MODEL, 3.0, 0)
    assert "# auto: three times over few rows" in answer.out
    assert json.loads(call(*arguments, "--json").out)["resolved"] == RESOLVED
    assert runs() == []


def test_check_with_a_model_prints_the_audit_and_fails_with_it(call, plan):
    answer = call("check", "rows.jsonl", "--model", MODEL)
    assert answer.code == 0
    assert "ok      trained tokens" in answer.out
    assert "text_label" in answer.out
    refused = {"class": "SupervisionError", "code": "supervision.nothing", "message": "2 rows train nothing"}
    failed = {**AUDIT, "ok": False, "checks": [{**AUDIT["checks"][0], "ok": False}]}
    plan([["write", "audit.json", failed], ["event", "error", None, refused], ["exit", 12]])
    answer = call("check", "rows.jsonl", "--model", MODEL)
    assert answer.code == 12
    assert "FAILED  trained tokens" in answer.out
    assert "error: 2 rows train nothing" in answer.err
    found = json.loads(call("check", "rows.jsonl", "--model", MODEL, "--json").out)
    assert (found["ok"], found["error"]["code"], found["data"]["rows"]) == (False, "supervision.nothing", 20)


def test_check_of_data_alone(call):
    answer = call("check", "rows.jsonl", "--validation", "rows.jsonl", "--show", "1")
    assert answer.code == 0
    assert "20 held-out rows with a prompt that is in the training data" in answer.out
    assert "text: message 0" in answer.out
    Path("bad.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "b"}\n{"text": "c", "label": "x"}\n')
    answer = call("check", "bad.jsonl", "--json")
    assert answer.code == 11
    found = json.loads(answer.out)
    assert found["data"]["bad_rows"]["missing_label"]["count"] == 1
    assert found["error"]["code"] == "data.bad_rows"
    answer = call("check", "bad.jsonl", "--on-bad-rows", "skip")
    assert (answer.code, "bad.jsonl:2" in answer.out) == (0, True)


def test_eval_prints_the_table_and_keeps_the_report_where_asked(call, plan):
    plan([["write", "report.json", REPORT], ["write", "report.html", "<html></html>"], ["write", "report.md", "#"]])
    answer = call("eval", MODEL, "--data", "rows.jsonl", "--output", "kept")
    assert answer.code == 0, answer.err
    assert "0.750" in answer.out
    assert sorted(path.name for path in Path("kept").iterdir()) == ["report.html", "report.json", "report.md"]
    assert json.loads(call("eval", MODEL, "--data", "rows.jsonl", "--json").out) == REPORT
    assert call("eval", MODEL, "--data", "rows.jsonl", "--output", "kept").code == 14


def test_models_pull_tells_the_place(call, plan):
    plan([["event", "artifact", None, {"kind": "model", "path": "/models/tiny", "adapter": None}]])
    assert call("models", "pull", MODEL).out == "/models/tiny\n"
    assert call("models", "pull", "smollm2-135m-instrukt").code == 13


def test_models_are_listed_and_shown(call):
    assert MODEL in call("models", "list").out
    found = json.loads(call("models", "show", MODEL, "--json").out)
    assert (found["parameters"], found["licence"]) == (134_515_008, "apache-2.0")
    assert json.loads(call("models", "show", "some-org/some-model", "--json").out)["kind"] == "hub"


def test_quickstart_trains_once_and_is_shown_again(call):
    answer = call("quickstart")
    assert answer.code == 0, answer.err
    assert runs() == ["quickstart"]
    assert "tunesmith chat quickstart --compare" in answer.out
    again = call("quickstart")
    assert again.out == answer.out
    assert "is there already" in again.err
    assert call("quickstart", "--again").code == 0
    assert runs() == ["quickstart", "quickstart-1"]


def test_quickstart_goes_on_where_it_stopped(call, plan):
    plan([status("training"), ["kill"]])
    assert call("quickstart").code == 20
    plan(TRAINS)
    answer = call("quickstart")
    assert answer.code == 0
    assert "going on with the run quickstart: died" in answer.err
    assert runs() == ["quickstart"]


def test_recipes_are_shown_and_their_schema_fits_them(call):
    import jsonschema

    schema = json.loads(call("recipe", "schema").out)
    Path("recipe.yaml").write_text(f"model: {MODEL}\ndata: {{train: rows.jsonl}}\n")
    shown = yaml.safe_load(call("recipe", "show", "recipe.yaml", "train.epochs=2", "technique.rank=8").out)
    assert shown["train"]["epochs"] == 2
    assert (shown["technique"]["name"], shown["technique"]["rank"]) == ("lora", 8)
    jsonschema.validate(shown, schema)


def test_doctor_never_fails(call, monkeypatch, tmp_path):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    found = {one["name"]: one for one in json.loads(call("doctor", "--json").out)["findings"]}
    assert {"python", "torch", "processor", "memory", "cache folder", "allocator", "hub"} <= set(found)
    assert not found["hub"]["ok"]
    monkeypatch.setenv("TUNESMITH_HOME", "/proc/nowhere")
    answer = call("doctor")
    assert answer.code == 0
    assert "!   runs folder" in answer.out


def test_the_python_door_trains_waits_and_raises(plan):
    run = tunesmith.train(
        {"model": MODEL, "data": {"train": "rows.jsonl"}}, name="a", train={"epochs": 2}, technique="full"
    )
    assert run.metrics == {"accuracy": 0.75, "loss": 0.5}
    assert run.report["systems"][0]["name"] == "base"
    assert run.adapter == Path("runs/a/adapter").resolve()
    assert recipe_of("a")["train"]["epochs"] == 2
    assert recipe_of("a")["technique"]["name"] == "full"
    assert tunesmith.open_run("a").path == run.path
    with pytest.raises(RunError, match="exists already"):
        tunesmith.train({"model": MODEL, "data": {"train": "rows.jsonl"}}, name="a")
    with pytest.raises(RecipeError):
        tunesmith.train({"model": MODEL, "data": {"train": "rows.jsonl"}}, tarin={"epochs": 2})
    error = DataError("one row", code="data.one_row")
    plan([["event", "error", None, error.to_json()], ["exit", 11]])
    Path("recipe.yaml").write_text(f"model: {MODEL}\ndata: {{train: rows.jsonl}}\n")
    with pytest.raises(DataError, match="one row"):
        tunesmith.train("recipe.yaml", output="elsewhere", name="b")
    assert not Path("elsewhere/b").exists()


def test_importing_the_package_loads_no_training_stack():
    program = "import sys, tunesmith; tunesmith.train; tunesmith.load; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "numpy.random"} & set(answer.stdout.split())
    with pytest.raises(AttributeError, match="nosuch"):
        tunesmith.nosuch  # noqa: B018
