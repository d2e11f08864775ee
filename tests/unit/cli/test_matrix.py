"""The command `tunesmith matrix` in this process, with a worker that follows a plan: what it refuses, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import fake_worker
import pytest
import yaml
from example_report import make_report

from tunesmith.errors import DataError
from tunesmith.executors.local import worker as local
from tunesmith.matrix.cell import read_matrix
from tunesmith.matrix.plan import load_layout

REPORT = make_report(rows=40, steps=4)
DRAWN = [["write", "matrix.png", "a picture"], ["write", "matrix.svg", "<svg/>"]]
SMALL = ("--scenario", "routing", "--technique", "lora", "--no-sharing")
MACHINE = {
    "id": "rack",
    "name": "The rack",
    "device": "cpu",
    "host_memory_bytes": 64_000_000_000,
    "matmul_flops_per_second": {"float32": 2e11},
    "source": "made up",
}
PRICE = {"price_per_hour": 1.8, "currency": "EUR", "price_date": "2026-11-01", "price_source": "an offer"}


def failing(error) -> list:
    return [["event", "error", None, error.to_json()], ["exit", error.exit_code]]


@pytest.fixture(autouse=True)
def plan(tmp_path, monkeypatch):
    """How workers behave; ends well with a report and a picture unless a test says otherwise."""
    monkeypatch.setattr(local, "WORKER_COMMAND", fake_worker.COMMAND)
    monkeypatch.setenv("FAKE_PLAN", str(tmp_path / "plan.json"))
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))

    def write(train=(["write", "report.json", REPORT],), matrix=DRAWN) -> None:
        (tmp_path / "plan.json").write_text(json.dumps({"train": list(train), "matrix": list(matrix)}))

    write()
    return write


def files() -> set[str]:
    return {path.name for path in Path().iterdir()} - {"plan.json", "cache"}


def error_of(answer) -> dict:
    assert answer.code != 0
    return answer.json["error"]


def test_scenarios_and_techniques_are_listed(tunesmith) -> None:
    answer = tunesmith("matrix", "--list")
    assert answer.code == 0
    layout = load_layout()
    listed = answer.out.splitlines()
    for one in (*layout.scenarios, *layout.columns):
        assert any(line.split()[:1] == [one.id] and one.title in line for line in listed)
    assert any("--data ner=FILE" in line for line in listed)
    assert files() == set()


def test_what_is_listed_comes_as_data_too(tunesmith) -> None:
    layout, listed = load_layout(), tunesmith("matrix", "--list", "--json").json
    assert [one["id"] for one in listed["scenarios"]] == [one.id for one in layout.scenarios]
    assert [one["title"] for one in listed["techniques"]] == [one.title for one in layout.columns]
    assert {one["id"]: one["sample"] for one in listed["scenarios"]}["ner"] is None
    assert files() == set()


def test_the_quick_mode_fits_into_half_an_hour(tunesmith) -> None:
    answer = tunesmith("matrix", "--dry-run")
    assert answer.code == 0, answer.err
    head = answer.err.splitlines()[0]
    assert head.startswith("26 runs to do, about 2")
    minutes = int(head.split("about ")[1].split(" min")[0])
    assert 20 < minutes < 30
    assert "  memory of two processes: ZeRO-3" in answer.err.splitlines()
    assert "  problems with QLoRA, seed 0" in answer.err.splitlines()
    assert files() == set(), "a dry run writes nothing"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("-o", "matrix.json"), "usage.matrix_output", ".md"),
        (("--scenario", "songs"), "usage.matrix_name", "songs"),
        (("--technique", "lroa"), "usage.matrix_name", "lroa"),
        (("--budget", "soon"), "usage.budget", "90s"),
        (("--data", "rows.jsonl"), "usage.matrix_data", "rows.jsonl"),
        (("--data", "ner="), "usage.matrix_data", "ner="),
        (("--validation", "routing=held.jsonl"), "usage.matrix_data", "routing"),
        (("--scenario", "ner"), "usage.matrix_data", "--data ner=FILE"),
        (("--data", "ner=rows.jsonl"), "usage.matrix_data", "--scenario ner"),
        (("--hardware", "rack.yaml"), "usage.no_price", "price_per_hour"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(tunesmith, words, code, said) -> None:
    Path("rack.yaml").write_text(yaml.safe_dump(MACHINE))
    answer = tunesmith("matrix", *words, "--json")
    error = error_of(answer)
    assert answer.code == 2
    assert error["code"] == code
    assert said in json.dumps(error)
    assert files() == {"rack.yaml"}


def test_a_page_stands_beside_its_json_and_pictures(tunesmith) -> None:
    answer = tunesmith("matrix", *SMALL, "-o", "results/which.md")
    assert answer.code == 0, answer.err
    assert {path.name for path in Path("results").iterdir()} == {"which.md", "which.json", "which.png", "which.svg"}
    assert "](which.png)" in Path("results/which.md").read_text()
    assert "[1/1] routing with LoRA, seed 0" in answer.err
    assert "accuracy +" in answer.err


def test_another_budget_is_refused_for_a_matrix_that_is_there(tunesmith) -> None:
    assert tunesmith("matrix", *SMALL).code == 0
    before = Path("matrix.json").read_bytes()
    answer = tunesmith("matrix", *SMALL, "--budget", "2m", "--json")
    assert error_of(answer)["code"] == "usage.matrix_other"
    assert "65s, now 2m" in answer.out
    assert Path("matrix.json").read_bytes() == before


def test_a_price_is_kept_and_told(tunesmith) -> None:
    Path("rack.yaml").write_text(yaml.safe_dump({**MACHINE, **PRICE}))
    assert tunesmith("matrix", *SMALL, "--hardware", "rack.yaml").code == 0
    assert read_matrix(Path("matrix.json")).price == {**PRICE, "device": "cpu"}
    assert "cost of the run (EUR, 2026-11-01)" in Path("matrix.md").read_text()


NOTHING_TO_DRAW = failing(DataError("no cell of the matrix has ended well", code="data.matrix_empty"))


def test_where_nothing_ended_well_the_page_says_why(tunesmith, plan) -> None:
    plan(train=failing(DataError("there are no rows", hint="add some")), matrix=NOTHING_TO_DRAW)
    answer = tunesmith("matrix", *SMALL)
    assert answer.code == 0
    assert "no numbers: there are no rows" in answer.err
    assert files() == {"matrix.md", "matrix.json"}
    page = Path("matrix.md").read_text()
    assert "- LoRA: there are no rows (add some)" in page
    assert "![" not in page


def test_whether_there_is_something_to_draw_is_left_to_the_drawing(tunesmith, plan) -> None:
    """It alone knows which cells have a place in it; the command must not guess."""
    plan(train=failing(DataError("there are no rows")))
    assert tunesmith("matrix", *SMALL).code == 0
    assert files() == {"matrix.md", "matrix.json", "matrix.png", "matrix.svg"}
    assert "](matrix.png)" in Path("matrix.md").read_text()


def test_a_drawing_that_fails_otherwise_is_told_and_the_numbers_stay(tunesmith, plan) -> None:
    plan(matrix=failing(DataError("there is no font", code="data.font")))
    answer = tunesmith("matrix", *SMALL, "--json")
    assert error_of(answer)["code"] == "data.font"
    assert read_matrix(Path("matrix.json")).results[0].outcome is not None


@pytest.mark.parametrize(
    "words",
    [
        ("--model", "smolm2-135m-instruct"),
        ("--data", "routing=rows.jsonl"),
        ("--data", "routing=there.jsonl", "--validation", "routing=held.jsonl"),
    ],
)
def test_a_command_that_was_mistyped_does_not_stand_in_the_way_of_the_right_one(tunesmith, words) -> None:
    write_rows("there.jsonl")
    assert tunesmith("matrix", *SMALL, *words, "-o", "results/matrix.md").code != 0
    assert files() == {"there.jsonl"}, "inputs are looked at before anything is written"
    answer = tunesmith("matrix", *SMALL)
    assert answer.code == 0, answer.err


def write_rows(path: str | Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"q {at}"}, {"role": "assistant", "content": "a"}]} for at in range(9)
    ]
    Path(path).write_text("\n".join(map(json.dumps, rows)))


def test_data_of_ones_own_is_not_called_the_bundled_sample(tunesmith) -> None:
    write_rows("rows.jsonl")
    answer = tunesmith("matrix", *SMALL, "--data", "routing=rows.jsonl")
    assert answer.code == 0, answer.err
    assert "the bundled sample support_routing" not in Path("matrix.md").read_text()


def said(answer) -> str:
    assert answer.code == 0, answer.err
    return answer.json["commands"][0]


def test_the_page_names_the_command_without_folders(tunesmith, tmp_path) -> None:
    model = tmp_path / "somewhere" / "tiny"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    write_rows(tmp_path / "rows.jsonl")
    Path("data").mkdir()
    write_rows("data/held.jsonl")
    words = (
        "--model",
        str(model),
        "--data",
        f"routing={tmp_path / 'rows.jsonl'}",
        "--validation",
        "routing=data/held.jsonl",
        "--seeds",
        "2",
        "--budget",
        "300 tokens",
    )
    answer = tunesmith("matrix", *SMALL, *words, "--dry-run", "--json")
    assert said(answer) == (
        "tunesmith matrix --no-sharing --scenario routing --technique lora --data routing=rows.jsonl "
        "--validation routing=held.jsonl --model tiny --seeds 2 --budget '300 tokens'"
    )
    assert answer.json["model"] == "tiny"


def test_the_page_names_a_model_of_the_hub_in_full(tunesmith) -> None:
    answer = tunesmith("matrix", *SMALL, "--model", "someone/small-model", "--dry-run", "--json")
    assert "--model someone/small-model" in said(answer)
    assert answer.json["model"] == "someone/small-model"


def test_the_command_on_the_page_has_the_hardware_of_its_price(tunesmith) -> None:
    Path("rack.yaml").write_text(yaml.safe_dump({**MACHINE, **PRICE}))
    assert "--hardware rack.yaml" in said(tunesmith("matrix", *SMALL, "--hardware", "rack.yaml", "--dry-run", "--json"))
