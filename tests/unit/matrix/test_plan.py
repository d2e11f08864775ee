"""The layout holds together, and what a command asks for becomes cells."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tunesmith.errors import UsageError
from tunesmith.matrix.plan import ALONE, Cell, Layout, Mode, choose, load_layout, plan_cells
from tunesmith.recipe.budget import parse_budget
from tunesmith.recipe.load import apply_overrides, parse_recipe
from tunesmith.recipe.schema import Recipe
from tunesmith.samples import sample_folder, sample_names
from tunesmith.tasks.prepare import TASKS

LAYOUT = load_layout()
COLUMNS = [column.id for column in LAYOUT.columns]
SCENARIOS = [scenario.id for scenario in LAYOUT.scenarios]
PAGE = [column.id for column in LAYOUT.columns if column.page]


def recipe_of(cell: Cell) -> Recipe:
    return parse_recipe(apply_overrides({"model": "tiny", "data": {"train": "rows.jsonl"}}, cell.settings))


def test_no_two_things_have_one_name() -> None:
    for names in (COLUMNS, SCENARIOS, [row.id for row in LAYOUT.rows], list(LAYOUT.marks)):
        assert [name for name, times in Counter(names).items() if times > 1] == []
    assert ALONE not in COLUMNS, "it means one process"


def test_every_column_that_is_named_exists() -> None:
    named = [column.against for column in LAYOUT.columns if column.against]
    named += [column.pooled_against for column in LAYOUT.columns if column.pooled_against not in (None, ALONE)]
    named += [name for mode in LAYOUT.modes.values() for name in (*mode.columns, *mode.pooled)]
    assert set(named) <= set(COLUMNS)
    assert set(LAYOUT.marks) == set(PAGE), "the table has the page's columns"


def test_every_row_and_scenario_that_is_named_exists() -> None:
    quality = {row.id for row in LAYOUT.rows if row.kind == "quality"}
    assert {scenario.row for scenario in LAYOUT.scenarios} == quality, "each of these rows has a scenario, and no other"
    named = {name for mode in LAYOUT.modes.values() for name in mode.scenarios} | {LAYOUT.pooled_scenario}
    assert named <= set(SCENARIOS)


def test_every_other_kind_of_row_stands_once() -> None:
    kinds = Counter(row.kind for row in LAYOUT.rows if row.kind != "quality")
    assert kinds == {"cost": 1, "memory": 1, "parameters": 1, "pooled": 1}


@pytest.mark.parametrize("name", PAGE)
def test_every_column_of_the_page_can_be_held_against_another(name: str) -> None:
    column = LAYOUT.column(name)
    assert column.against is not None
    assert column.pooled is not None
    assert column.pooled_against is not None
    if column.by_pooled:
        assert column.pooled_against != ALONE, "memory and cost are held against another column's processes"
        assert LAYOUT.column(column.pooled_against).pooled is not None
    elif column.pooled_against != ALONE:
        assert LAYOUT.column(column.pooled_against).pooled is not None


def test_each_row_has_a_mark_of_each_edition_for_each_column() -> None:
    assert {(len(row.given), len(row.later)) for row in LAYOUT.rows} == {(len(LAYOUT.marks), len(LAYOUT.marks))}


def test_the_two_editions_differ_in_exactly_six_cells() -> None:
    differing = [
        (row.id, name)
        for row in LAYOUT.rows
        for name, given, later in zip(LAYOUT.marks, row.given, row.later, strict=True)
        if given != later
    ]
    assert len(differing) == 6


@pytest.mark.parametrize("scenario", [one for one in LAYOUT.scenarios if one.sample], ids=lambda one: one.id)
def test_every_sample_that_is_named_is_bundled(scenario) -> None:
    assert scenario.sample in sample_names()
    folder = sample_folder(scenario.sample)
    assert (folder / "train.jsonl").stat().st_size > 0
    assert (folder / "heldout.jsonl").stat().st_size > 0


@pytest.mark.parametrize("mode", ["quick", "full"])
def test_both_modes_need_no_data_of_ones_own(mode) -> None:
    needed = {*LAYOUT.modes[mode].scenarios, LAYOUT.pooled_scenario}
    assert [name for name in needed if LAYOUT.scenario(name).sample is None] == []
    assert parse_budget(LAYOUT.modes[mode].budget).seconds


def test_the_quick_mode_has_three_scenarios_and_four_techniques_of_the_page() -> None:
    quick = LAYOUT.modes["quick"]
    assert len(quick.scenarios) == 3
    assert len(set(quick.columns) & set(PAGE)) >= 4
    assert {LAYOUT.column(name).against for name in quick.columns if name in PAGE} <= set(quick.columns)


def test_the_full_mode_has_every_column_and_every_sample() -> None:
    full = LAYOUT.modes["full"]
    assert set(full.columns) == set(COLUMNS)
    assert set(full.scenarios) == {scenario.id for scenario in LAYOUT.scenarios if scenario.sample}
    assert {LAYOUT.scenario(name).row for name in full.scenarios} == {
        row.id for row in LAYOUT.rows if row.kind == "quality"
    }


def test_every_scenario_under_every_column_is_a_recipe() -> None:
    mode = choose(LAYOUT, "full", scenarios=SCENARIOS, columns=COLUMNS, seeds=1)
    for cell in plan_cells(LAYOUT, mode):
        recipe = recipe_of(cell)
        assert recipe.task == "auto" or recipe.task in TASKS
        assert recipe.train.seed == cell.seed


def test_the_two_processes_of_a_shared_run_are_asked_for() -> None:
    for cell in plan_cells(LAYOUT, choose(LAYOUT, "full")):
        if cell.kind != "quality":
            recipe = recipe_of(cell)
            assert recipe.train.devices == (1 if cell.kind == "alone" else 2)
            assert recipe.train.activation_checkpointing is True
            assert recipe.train.budget == "2k tokens"


def test_unknown_keys_of_a_layout_are_mistakes() -> None:
    plain = LAYOUT.model_dump()
    assert Layout.model_validate(plain) == LAYOUT
    with pytest.raises(ValidationError):
        Layout.model_validate({**plain, "colums": []})


def test_what_is_asked_for_stands_in_the_layouts_order() -> None:
    mode = choose(LAYOUT, "quick", scenarios=["tunes", "handbook"], columns=["dora", "full", "lora"])
    assert mode.scenarios == ("handbook", "tunes")
    assert mode.columns == ("full", "lora", "dora")
    assert mode.pooled == ("lora", "dora"), "full tuning alone shares nothing"
    assert (mode.seeds, mode.budget) == (1, "65s")


def test_what_is_not_asked_for_stays_as_the_mode_has_it() -> None:
    assert choose(LAYOUT, "quick") == LAYOUT.modes["quick"]
    assert choose(LAYOUT, "full") == LAYOUT.modes["full"]
    changed = choose(LAYOUT, "full", seeds=2, budget="3m", pooled=False)
    assert changed == LAYOUT.modes["full"].model_copy(update={"seeds": 2, "budget": "3m", "pooled": ()})


def test_every_name_that_does_not_exist_is_told_with_those_that_do() -> None:
    with pytest.raises(UsageError) as caught:
        choose(LAYOUT, "quick", scenarios=["tunes", "songs"], columns=["lora", "lroa", "LoRA"])
    assert caught.value.code == "usage.matrix_name"
    problems = [(one.place, one.value) for one in caught.value.problems]
    assert problems == [("--scenario", "songs"), ("--technique", "lroa"), ("--technique", "LoRA")]
    assert all(name in (caught.value.problems[0].hint or "") for name in SCENARIOS)
    assert all(name in (caught.value.problems[1].hint or "") for name in COLUMNS)


def test_a_matrix_that_stops_early_has_whole_seeds_of_whole_scenarios() -> None:
    mode = choose(LAYOUT, "quick", scenarios=["routing", "tunes"], columns=["full", "lora"], seeds=2, pooled=False)
    found = [(cell.seed, cell.scenario, cell.column) for cell in plan_cells(LAYOUT, mode)]
    assert found == [
        (seed, scenario, column) for seed in (0, 1) for scenario in ("routing", "tunes") for column in ("full", "lora")
    ]


def test_a_cell_has_the_settings_of_scenario_column_and_mode() -> None:
    mode = choose(
        LAYOUT, "quick", scenarios=["problems"], columns=["qlora"], seeds=2, budget="300 tokens", pooled=False
    )
    recipe = recipe_of(plan_cells(LAYOUT, mode)[1])
    assert (recipe.task, recipe.technique.name) == ("math", "qlora")
    assert (recipe.train.budget, recipe.train.seed, recipe.evaluate.few_shot) == ("300 tokens", 1, 0)


def sharing(*columns: str) -> list[tuple[str, str]]:
    mode = choose(LAYOUT, "quick", scenarios=["tunes"], columns=columns)
    return [(cell.kind, cell.column) for cell in plan_cells(LAYOUT, mode) if cell.kind != "quality"]


def test_what_sharing_is_held_against_is_run_too_and_first() -> None:
    assert sharing("deepspeed") == [("pooled", "ddp"), ("pooled", "deepspeed")]
    assert sharing("zero", "ddp", "deepspeed") == [("pooled", "ddp"), ("pooled", "deepspeed"), ("pooled", "zero")]
    assert sharing("lora") == [("alone", "lora"), ("pooled", "lora")]
    assert sharing("full") == []


def test_the_process_alone_differs_from_the_two_in_sharing_only() -> None:
    mode = choose(LAYOUT, "quick", scenarios=["tunes"], columns=["lora"])
    alone, pooled = (cell for cell in plan_cells(LAYOUT, mode) if cell.kind != "quality")
    assert alone.scenario == pooled.scenario == LAYOUT.pooled_scenario
    assert set(pooled.settings) - set(alone.settings) == set(LAYOUT.column("lora").pooled or ())
    assert set(alone.settings) < set(pooled.settings)


@given(
    scenarios=st.sets(st.sampled_from(SCENARIOS), min_size=1),
    columns=st.sets(st.sampled_from(COLUMNS), min_size=1),
    seeds=st.integers(1, 4),
    pooled=st.booleans(),
)
def test_each_cell_is_planned_once_under_a_name_of_its_own(scenarios, columns, seeds, pooled) -> None:
    mode = choose(LAYOUT, "quick", scenarios=scenarios, columns=columns, seeds=seeds, pooled=pooled)
    cells = plan_cells(LAYOUT, mode)
    assert len({cell.name for cell in cells}) == len(cells)
    assert sum(cell.kind == "quality" for cell in cells) == seeds * len(scenarios) * len(columns)
    assert pooled or all(cell.kind == "quality" for cell in cells)
    assert {cell.column for cell in cells if cell.kind == "alone"} <= {cell.column for cell in cells}


def test_a_mode_needs_a_seed() -> None:
    with pytest.raises(ValidationError):
        Mode(scenarios=("tunes",), columns=("lora",), pooled=(), seeds=0, budget="1m")
