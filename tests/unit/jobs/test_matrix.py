"""Cells run one after the other by a worker that follows a plan; what ended well is never run again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import fake_worker
import pytest
from example_report import make_report
from matrix_cases import cell, failed, matrix_of, ran

from tunesmith.errors import DataError, ModelError, OutputError, Problem, Stopped, UsageError
from tunesmith.executors.local import worker as local
from tunesmith.jobs import follow
from tunesmith.jobs.create import findable_model
from tunesmith.jobs.matrix import (
    cell_recipe,
    cells_to_run,
    conditions,
    hashes_of,
    open_matrix,
    recipes_of,
    run_cells,
    sources_of,
)
from tunesmith.matrix.cell import Matrix, Result, read_matrix
from tunesmith.matrix.plan import Cell, Mode, choose, load_layout, plan_cells
from tunesmith.runs.atomic import write_json

LAYOUT = load_layout()
MODEL = "smollm2-135m-instruct"
REPORT = make_report(rows=40, steps=4)
ENDS_WELL = [["write", "report.json", REPORT], ["event", "status", None, {"state": "finished"}]]


def raises(error, code: int) -> list:
    return [["event", "error", None, error.to_json()], ["exit", code]]


@pytest.fixture
def scratch(tmp_path, monkeypatch) -> Path:
    """A temporary folder of the test's own, so that what is left in it is seen."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


class Table:
    """A matrix in the making: two scenarios by two columns; ``plans`` say how each worker behaves."""

    def __init__(self, folder: Path, mode: Mode) -> None:
        self.folder, self.path, self.mode = folder, folder / "matrix.json", mode
        self.plans: dict[str, list] = {}
        self.asked: list[str] = []
        self.told: list[Result] = []
        self.on_event: Any = lambda _: None
        self.keep: Path | None = None

    def run(self) -> Matrix:
        sources = sources_of(LAYOUT, self.mode, {})
        wanted = Matrix(model=MODEL, mode=self.mode, commands=("tunesmith matrix",), data=hashes_of(sources))
        there = open_matrix(self.path, wanted)
        cells = cells_to_run(LAYOUT, self.mode, there)
        return run_cells(
            cells,
            recipes_of(cells, MODEL, sources),
            there,
            self.path,
            keep=self.keep,
            on_cell=self._begin,
            on_event=self.on_event,
            on_result=self._end,
        )

    def _begin(self, number: int, one: Cell) -> None:
        self.asked.append(one.name)
        (self.folder / "plan.json").write_text(json.dumps(self.plans.get(one.name, ENDS_WELL)))

    def _end(self, result: Result) -> None:
        self.told.append(result)
        assert read_matrix(self.path).results[-1] == result, "it is kept before it is told"


@pytest.fixture
def table(tmp_path, monkeypatch, scratch) -> Table:
    monkeypatch.setattr(local, "WORKER_COMMAND", fake_worker.COMMAND)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.02)
    monkeypatch.setenv("FAKE_PLAN", str(tmp_path / "plan.json"))
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    mode = choose(LAYOUT, "quick", scenarios=["routing", "tunes"], columns=["full", "lora"], pooled=False)
    return Table(tmp_path, mode)


ALL = ["quality-routing-full-0", "quality-routing-lora-0", "quality-tunes-full-0", "quality-tunes-lora-0"]


def test_every_cell_runs_once_and_its_numbers_are_kept(table, scratch) -> None:
    found = table.run()
    assert table.asked == [result.cell.name for result in found.results] == ALL
    assert found.results == tuple(table.told)
    assert read_matrix(table.path) == found
    outcome = found.results[0].outcome
    assert outcome is not None
    assert (outcome.metric, outcome.steps, outcome.tokens) == ("accuracy", 4, 491_520)
    assert found.results[0].seconds > 0
    assert list(scratch.iterdir()) == [], "runs go once they are measured"


def test_a_second_call_runs_nothing(table) -> None:
    first = table.run()
    table.asked.clear()
    assert table.run() == first
    assert table.asked == []


def test_another_column_and_another_seed_run_what_is_new_alone(table) -> None:
    table.run()
    table.asked.clear()
    table.mode = choose(LAYOUT, "quick", scenarios=["tunes"], columns=["lora", "dora"], seeds=2, pooled=False)
    found = table.run()
    assert table.asked == ["quality-tunes-dora-0", "quality-tunes-lora-1", "quality-tunes-dora-1"]
    assert len(found.results) == 7
    assert found.mode.columns == ("full", "lora", "dora")


def test_a_cell_that_fails_says_why_and_is_tried_again(table) -> None:
    error = DataError("there are no rows", code="data.empty", hint="add some")
    table.plans["quality-routing-lora-0"] = raises(error, 11)
    found = table.run()
    assert table.asked == ALL, "the others run"
    result = found.results[1]
    assert result.outcome is None
    assert result.failure is not None
    assert (result.failure.code, result.failure.message, result.failure.hint) == (
        "data.empty",
        "there are no rows",
        "add some",
    )
    table.plans.clear()
    table.asked.clear()
    again = table.run()
    assert table.asked == ["quality-routing-lora-0"]
    assert all(one.failure is None for one in again.results)
    assert len(again.results) == 4


def test_of_several_problems_the_first_is_kept(table) -> None:
    problems = [
        Problem("data.bad", "no text", "rows.csv:3", "''", "write it"),
        Problem("data.worse", "row 4 has none"),
    ]
    table.plans[ALL[0]] = raises(DataError("2 rows are bad", problems=problems), 11)
    table.plans[ALL[1]] = raises(DataError("there are no rows"), 11)
    first, second = (result.failure for result in table.run().results[:2])
    assert first is not None
    assert (first.code, first.message, first.value, first.hint) == ("data.bad", "no text", "rows.csv:3: ''", "write it")
    assert second is not None
    assert second.value is None, "it has neither place nor value"


@pytest.mark.parametrize("plan", [[["exit", 3]], [["kill"]]])
def test_a_worker_that_dies_without_a_word_is_a_failed_cell(table, plan) -> None:
    table.plans[ALL[2]] = plan
    found = table.run()
    assert table.asked == ALL
    failure = found.results[2].failure
    assert failure is not None
    assert failure.code.startswith("worker.")


@pytest.mark.parametrize(
    "plan",
    [
        [["event", "status", None, {"state": "finished"}]],
        [["write", "report.json", "{"]],
        [["write", "report.json", {"format": 1}]],
        [["write", "report.json", {**REPORT, "cost": {**REPORT["cost"], "tokens_per_second": None}}]],
    ],
    ids=["none", "broken", "empty", "no steps"],
)
def test_a_report_without_numbers_is_a_failed_cell(table, plan) -> None:
    table.plans[ALL[1]] = plan
    found = table.run()
    assert table.asked == ALL
    assert found.results[1].failure is not None


def stopped() -> list:
    return [["event", "status", None, {"state": "cancelled"}], ["exit", 130]]


@pytest.mark.parametrize(
    ("plan", "kind"),
    [
        (stopped(), Stopped),
        (raises(OutputError("the disk is full", code="output.disk_full"), 14), OutputError),
    ],
)
def test_what_no_other_cell_could_survive_ends_the_command_and_keeps_what_is_there(table, scratch, plan, kind) -> None:
    table.plans[ALL[2]] = plan
    with pytest.raises(kind):
        table.run()
    assert table.asked == ALL[:3]
    assert [one.cell.name for one in read_matrix(table.path).results] == ALL[:2]
    assert list(scratch.iterdir()) == []
    table.plans.clear()
    table.asked.clear()
    table.run()
    assert table.asked == ALL[2:], "it goes on where it was"


def test_ctrl_c_ends_the_worker_and_keeps_what_is_there(table, scratch) -> None:
    table.plans[ALL[1]] = [["event", "status", None, {"state": "training"}], ["sleep", 30]]
    pids: list[int] = []

    def interrupt(event) -> None:
        if event.data == {"state": "training"}:
            (launch,) = scratch.glob("*/*/launch.json")
            pids.append(json.loads(launch.read_text())["pid"])
            raise KeyboardInterrupt

    table.on_event = interrupt
    with pytest.raises(KeyboardInterrupt):
        table.run()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert [one.cell.name for one in read_matrix(table.path).results] == ALL[:1]
    assert list(scratch.iterdir()) == []


def test_runs_are_kept_where_that_is_asked_for(table, tmp_path) -> None:
    table.keep = tmp_path / "kept"
    table.plans[ALL[0]] = raises(DataError("there are no rows"), 11)
    table.run()
    assert sorted(path.name for path in table.keep.iterdir()) == sorted(ALL)
    table.plans.clear()
    table.run()
    assert sorted(path.name for path in table.keep.iterdir()) == sorted([*ALL, f"{ALL[0]}-2"])
    assert (table.keep / f"{ALL[0]}-2" / "report.json").exists()
    assert "technique" in (table.keep / ALL[0] / "recipe.yaml").read_text()


def test_every_cell_has_its_recipe(table) -> None:
    sources = sources_of(LAYOUT, table.mode, {})
    cells = plan_cells(LAYOUT, table.mode)
    found = recipes_of(cells, MODEL, sources)
    assert found == {one.name: cell_recipe(one, MODEL, sources[one.scenario]) for one in cells}
    tunes = found["quality-tunes-lora-0"]
    assert (tunes.model, tunes.technique.name, tunes.data.train) == (MODEL, "lora", sources["tunes"]["train"])
    assert tunes.data.validation == sources["tunes"]["validation"]


def test_inputs_that_no_cell_could_use_have_no_recipes(table, tmp_path) -> None:
    cells = plan_cells(LAYOUT, table.mode)
    there = {"train": str(sources_of(LAYOUT, table.mode, {})["routing"]["train"])}
    with pytest.raises(DataError, match="nowhere"):
        recipes_of(cells, MODEL, {"routing": there, "tunes": {"train": str(tmp_path / "nowhere.jsonl")}})
    with pytest.raises(ModelError):
        recipes_of(cells, "smolm2-135m-instruct", {"routing": there, "tunes": there})
    recipes_of(cells, MODEL, {"routing": there, "tunes": there})


@pytest.mark.parametrize("without", ["routing", "tunes"])
def test_held_out_data_of_every_scenario_is_looked_at(table, tmp_path, without) -> None:
    """Two scenarios of one training file, of which one has held-out data that is not there."""
    train = sources_of(LAYOUT, table.mode, {})["routing"]["train"]
    sources = {name: {"train": train} for name in ("routing", "tunes")}
    sources[without] = {"train": train, "validation": str(tmp_path / "nowhere.jsonl")}
    with pytest.raises(DataError, match="nowhere"):
        recipes_of(plan_cells(LAYOUT, table.mode), MODEL, sources)


def test_a_model_that_lies_here_is_found_from_anywhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "first"
    for folder in (tmp_path / "models" / "tiny", run):
        folder.mkdir(parents=True)
    (run / "recipe.yaml").write_text("model: tiny\n")
    assert findable_model("models/tiny") == str(tmp_path / "models" / "tiny")
    assert findable_model("first") == str(run)
    assert findable_model("someone/small-model") == "someone/small-model"
    assert findable_model(MODEL) == MODEL


def test_two_commands_on_one_file_do_not_undo_each_other(table) -> None:
    """While this one trains, another command puts a cell of its own into the file."""

    def other(_event) -> None:
        there = read_matrix(table.path)
        mode = there.mode.model_copy(update={"scenarios": ("handbook",), "columns": ("dora",)})
        changes = {"mode": mode, "commands": ("tunesmith matrix --scenario handbook",)}
        widened = there.with_result(ran("handbook", "dora")).model_copy(update=changes)
        write_json(table.path, widened.model_dump(mode="json"))

    table.run()
    table.mode = choose(LAYOUT, "quick", scenarios=["tunes"], columns=["qlora"], pooled=False)
    table.on_event = other
    table.run()
    found = read_matrix(table.path)
    names = [one.cell.name for one in found.results]
    assert sorted(names) == sorted([*ALL, "quality-tunes-qlora-0", "quality-handbook-dora-0"])
    assert found.commands == ("tunesmith matrix", "tunesmith matrix --scenario handbook")
    assert "handbook" in found.mode.scenarios, "what has numbers stands on the page"
    assert {"dora", "qlora"} <= set(found.mode.columns)


def test_conditions_say_where_and_when_without_naming_the_machine(table) -> None:
    found = table.run().results[0].conditions
    assert {"time", "processor", "cores", "memory_gib", "tunesmith", "torch"} <= set(found)
    assert os.uname().nodename not in json.dumps(conditions()).split('"')


def test_scenarios_have_their_samples_unless_data_is_given() -> None:
    mode = choose(LAYOUT, "quick", scenarios=["routing", "ner"], pooled=False)
    own = {"train": "names.jsonl", "validation": "held.jsonl"}
    found = sources_of(LAYOUT, mode, {"ner": own})
    assert found["ner"] == own
    assert found["routing"]["train"].endswith("support_routing/train.jsonl")
    assert Path(found["routing"]["validation"]).name == "heldout.jsonl"
    assert sources_of(LAYOUT, mode, {"ner": own, "routing": own})["routing"] == own


def test_the_scenario_that_sharing_runs_on_has_data_too() -> None:
    mode = choose(LAYOUT, "quick", scenarios=["routing"], columns=["lora"])
    assert list(sources_of(LAYOUT, mode, {})) == ["routing", "problems"]
    alone = choose(LAYOUT, "quick", scenarios=["routing"], columns=["lora"], pooled=False)
    assert list(sources_of(LAYOUT, alone, {})) == ["routing"]
    sources_of(LAYOUT, mode, {"problems": {"train": "sums.jsonl"}})
    with pytest.raises(UsageError):
        sources_of(LAYOUT, alone, {"problems": {"train": "sums.jsonl"}})


def test_every_scenario_without_data_and_all_data_without_a_scenario_is_told() -> None:
    mode = choose(LAYOUT, "quick", scenarios=["ner", "qa", "tunes"], pooled=False)
    with pytest.raises(UsageError) as caught:
        sources_of(LAYOUT, mode, {"music": {"train": "tunes.jsonl"}})
    assert caught.value.code == "usage.matrix_data"
    assert [one.value for one in caught.value.problems] == ["ner", "qa", "music"]
    assert "--data ner=FILE" in (caught.value.problems[0].hint or "")
    assert "--scenario music" in (caught.value.problems[2].hint or "")


def test_files_are_known_by_their_content_and_others_by_name(tmp_path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(b"{}\n")
    found = hashes_of({"ner": {"train": str(rows), "validation": "hub:someone/names"}})
    assert found == {"ner": {"train": hashlib.sha256(b"{}\n").hexdigest(), "validation": "hub:someone/names"}}


def kept(path: Path, *results: Result, **values: Any) -> Matrix:
    there = matrix_of(*results, **values)
    write_json(path, there.model_dump(mode="json"))
    return there


def test_where_there_is_no_file_the_wanted_matrix_begins(tmp_path) -> None:
    wanted = matrix_of()
    assert open_matrix(tmp_path / "matrix.json", wanted) is wanted


def test_a_matrix_is_widened_by_what_is_wanted_now(tmp_path) -> None:
    path = tmp_path / "matrix.json"
    price = {"price_per_hour": 1.0, "currency": "EUR", "price_date": "2026-11-01", "price_source": "an offer"}
    there = kept(
        path,
        ran("tunes", "lora"),
        ran("tunes", "lora", seed=1),
        data={"tunes": {"train": "aa"}},
        price=price,
        commands=("tunesmith matrix --seeds 2",),
    )
    wanted = matrix_of(
        ran("routing", "full"),
        ran("tunes", "lora"),
        data={"tunes": {"train": "aa"}, "routing": {"train": "bb"}},
        commands=("tunesmith matrix",),
    ).model_copy(update={"results": ()})
    found = open_matrix(path, wanted)
    assert found.results == there.results
    assert (found.mode.scenarios, found.mode.columns, found.mode.seeds) == (("tunes", "routing"), ("lora", "full"), 2)
    assert found.data == {"tunes": {"train": "aa"}, "routing": {"train": "bb"}}
    assert found.commands == ("tunesmith matrix --seeds 2", "tunesmith matrix")
    assert found.price == price
    assert open_matrix(path, found) == found, "twice is once"


def test_all_that_was_made_otherwise_is_told_at_once(tmp_path) -> None:
    path = tmp_path / "matrix.json"
    kept(
        path, ran("tunes", "lora"), ran("routing", "lora"), data={"tunes": {"train": "aa"}, "routing": {"train": "bb"}}
    )
    mode = matrix_of().mode.model_copy(update={"budget": "10m"})
    wanted = matrix_of(mode=mode, model="another", data={"tunes": {"train": "cc"}, "routing": {"train": "bb"}})
    with pytest.raises(UsageError) as caught:
        open_matrix(path, wanted)
    assert caught.value.code == "usage.matrix_other"
    assert caught.value.place == str(path)
    told = str(caught.value)
    for word in ("smollm2-135m-instruct", "another", "65s", "10m", "tunes"):
        assert word in told
    assert len(caught.value.problems) == 3
    assert "routing" not in told


def test_data_that_one_side_alone_has_is_no_contradiction(tmp_path) -> None:
    path = tmp_path / "matrix.json"
    kept(path, ran("tunes", "lora"), data={"tunes": {"train": "aa"}})
    assert open_matrix(path, matrix_of(data={"ner": {"train": "bb"}})).data == {
        "tunes": {"train": "aa"},
        "ner": {"train": "bb"},
    }


def test_a_matrix_in_which_nothing_has_ended_well_binds_nobody(tmp_path) -> None:
    """A mistyped model or file leaves such a file behind; the corrected command must not be refused for it."""
    path = tmp_path / "matrix.json"
    no_model, other = failed("tunes", "lora", "no such model"), {"tunes": {"train": "nowhere.jsonl"}}
    wanted = matrix_of(data={"tunes": {"train": "aa"}})
    kept(path, no_model, model="smolm2", data=other)
    assert open_matrix(path, wanted) is wanted
    kept(path, no_model, ran("tunes", "full"), model="smolm2", data=other)
    with pytest.raises(UsageError):
        open_matrix(path, wanted)


def test_what_was_made_with_other_settings_runs_again() -> None:
    mode = choose(LAYOUT, "quick", scenarios=["tunes"], columns=["lora"], pooled=False)
    (planned,) = plan_cells(LAYOUT, mode)
    same = ran("tunes", "lora").model_copy(update={"cell": planned})
    assert cells_to_run(LAYOUT, mode, matrix_of(same)) == []
    other = ran("tunes", "lora").model_copy(update={"cell": cell("tunes", "lora")})
    assert cells_to_run(LAYOUT, mode, matrix_of(other)) == [planned]
