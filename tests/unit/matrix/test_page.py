"""The page: what it answers, what it shows behind each answer, and what it says of what did not run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matrix_cases import GIB, cell, failed, gain, matrix_of, outcome, ran, shared

from tunesmith.jobs.advice import measured_matrix
from tunesmith.matrix.cell import Gain, Matrix
from tunesmith.matrix.page import matrix_page, target_loss
from tunesmith.matrix.plan import load_layout
from tunesmith.matrix.rules import RULES
from tunesmith.planner.hardware import load_hardware

LAYOUT = load_layout()


def page_of(*results, picture=None, **values) -> str:
    return matrix_page(LAYOUT, matrix_of(*results, **values), picture)


def tables(page: str) -> list[list[list[str]]]:
    """The cells of each table, line by line; a bar behind a backslash is text."""
    found: list[list[list[str]]] = [[]]
    for line in page.splitlines():
        if line.startswith("|"):
            found[-1].append([one.strip() for one in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def part(page: str, head: str) -> str:
    """What stands under a heading, up to the next one."""
    _, _, rest = page.partition(f"{head}\n")
    assert rest, f"no {head}"
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]


def row_of(page: str, title: str, at: int = 0) -> dict[str, str]:
    """The cells of a row by the heads of its table; ``at`` numbers the tables that have such a row."""
    found = [(table[0], line) for table in tables(page) for line in table[2:] if line[0] == title]
    heads, line = found[at]
    return dict(zip(heads, line, strict=True))


def test_the_table_answers_every_row_for_every_column() -> None:
    page = page_of(ran("routing", "lora", gain=gain(0.3)), ran("routing", "qlora", gain=gain(0.01)))
    table = tables(page)[0]
    assert table[0] == ["scenario", *(LAYOUT.column(name).page for name in LAYOUT.marks)]
    assert [line[0] for line in table[2:]] == [row.title for row in LAYOUT.rows]
    classify = row_of(page, "text classification, named entities, translation")
    assert (classify["LoRA"], classify["QLoRA"], classify["DoRA"]) == ("yes", "undecided", "–")


def test_a_contradiction_is_marked_and_told_with_the_number_that_makes_it() -> None:
    page = page_of(
        ran("routing", "lora", trained_parameters=250_000, gain=gain(-0.3, 0.05)),
        ran("routing", "full", trained_parameters=1_000_000),
    )
    assert row_of(page, "fewer trained parameters")["LoRA"] == "**yes** ≠1"
    assert row_of(page, "text classification, named entities, translation")["LoRA"] == "**no** ≠1 ≠2"
    told = part(page, "### What is contradicted, and the number that does it")
    assert "- fewer trained parameters, LoRA: **yes** (0.2500), against the first edition" in told
    assert "LoRA: **no** (routing -0.300 (-0.350 to -0.250)), against the first edition and the second edition" in told


def test_nothing_is_contradicted_where_nothing_is_decided() -> None:
    page = page_of(ran("routing", "lora", gain=gain(0.01)))
    assert part(page, "### What is contradicted, and the number that does it").strip().startswith("Nothing.")
    assert "≠" not in "".join(cell for line in tables(page)[0] for cell in line)
    assert "translation, LoRA: undecided (routing +0.010 (-0.040 to +0.060))" in page


def test_a_gain_says_undecided_where_its_interval_holds_zero() -> None:
    page = page_of(
        ran("routing", "full", gain=gain(0.3, 0.05)),
        ran("routing", "lora", gain=gain(0.02, 0.05)),
        ran("routing", "dora", gain=Gain(value=0.1, low=0.0, high=0.2)),
        ran("routing", "qlora", gain=None),
    )
    assert row_of(page, "full tuning")["gain"] == "+0.300 (+0.250 to +0.350)"
    assert row_of(page, "LoRA")["gain"] == "+0.020 (-0.030 to +0.070), undecided"
    assert row_of(page, "DoRA")["gain"] == "+0.100 (+0.000 to +0.200), undecided"
    assert row_of(page, "QLoRA")["gain"] == "–"


def test_a_gain_of_too_few_rows_says_so_and_is_not_the_best() -> None:
    page = page_of(
        ran("routing", "full", gain=gain(0.3, 0.05, enough=False)),
        ran("routing", "lora", gain=gain(0.1, 0.05, enough=False)),
    )
    assert row_of(page, "full tuning")["gain"] == "+0.300 (+0.250 to +0.350, too few rows), undecided"
    assert row_of(page, "full tuning")[""] == ""
    assert "translation, LoRA: undecided (routing +0.100 (+0.050 to +0.150, too few rows))" in page


def test_the_best_is_named_with_those_that_are_not_told_apart() -> None:
    page = page_of(
        ran("routing", "full", gain=gain(0.3, 0.05)),
        ran("routing", "lora", gain=gain(0.25, 0.05)),
        ran("routing", "dora", gain=gain(0.1, 0.05)),
        ran("routing", "qlora", gain=None),
    )
    assert [row_of(page, name)[""] for name in ("full tuning", "LoRA", "DoRA", "QLoRA")] == ["best", "as good", "", ""]
    alone = page_of(ran("routing", "lora"))
    assert row_of(alone, "LoRA")[""] == "", "one is not the best of several"


def test_the_measurements_stand_in_units() -> None:
    page = page_of(
        ran(
            "routing",
            "lora",
            base=0.125,
            tuned=0.5,
            tuned_loss=1.25,
            peak_memory_bytes=3 * GIB,
            tokens_per_second=250.0,
        ),
        ran("routing", "lora", seed=1, base=0.375, tuned=0.75, tuned_loss=0.75, peak_memory_bytes=2 * GIB),
    )
    found = row_of(page, "LoRA")
    assert (found["untuned"], found["tuned"], found["held-out loss"]) == ("0.250", "0.625", "1.000")
    assert (found["memory"], found["ms a token"], found["trained"]) == ("2.50 GiB", "2.50", "1,000,000")


def test_time_to_the_target_is_told_where_every_seed_came_there() -> None:
    slow = ((10.0, 1.9), (40.0, 1.4))
    never = ((10.0, 1.9), (20.0, 1.8))
    page = page_of(
        ran("routing", "full", validation=((20.0, 1.0),)),
        ran("routing", "lora", validation=slow),
        ran("routing", "dora", validation=never),
        ran("routing", "qlora", validation=slow),
        ran("routing", "qlora", seed=1, validation=never),
    )
    assert "Target: a held-out loss of 1.500." in page
    found = {name: row_of(page, name)["to the target"] for name in ("full tuning", "LoRA", "DoRA", "QLoRA")}
    assert found == {"full tuning": "10 s", "LoRA": "34 s", "DoRA": "not reached", "QLoRA": "not reached"}


def test_without_a_target_no_time_is_told() -> None:
    page = page_of(ran("routing", "lora", validation=((20.0, 2.5),)))
    assert "Target" not in part(page, "### Customer messages to queue and urgency (`routing`)")
    assert row_of(page, "LoRA")["to the target"] == "–"


def test_the_target_lies_half_way_from_the_untuned_model_to_the_lowest_loss() -> None:
    found = [
        outcome(base_loss=2.0, validation=((1.0, 1.8), (2.0, 1.2))),
        outcome(base_loss=2.2, validation=((1.0, 1.0),)),
    ]
    assert target_loss(found) == pytest.approx(1.5)
    assert target_loss([outcome(base_loss=2.0, validation=((1.0, 2.0),))]) is None
    assert target_loss([outcome(base_loss=None)]) is None
    assert target_loss([outcome(validation=())]) is None
    assert target_loss([]) is None


@given(
    losses=st.lists(st.lists(st.floats(0.1, 10), min_size=1, max_size=4), min_size=1, max_size=4),
    base=st.floats(0.1, 10),
)
def test_a_target_is_reached_by_at_least_one_column(losses, base) -> None:
    found = [
        outcome(base_loss=base, validation=tuple((10.0 * at, loss) for at, loss in enumerate(one, start=1)))
        for one in losses
    ]
    target = target_loss(found)
    lowest = min(loss for one in losses for loss in one)
    assert (target is None) == (lowest >= base)
    if target is not None:
        assert any(one.seconds_to(target) is not None for one in found)


def test_what_failed_says_why_where_its_numbers_would_stand() -> None:
    page = page_of(
        ran("routing", "full"),
        failed(
            "routing", "qlora", "the library bitsandbytes is not installed", "pip install 'tunesmith[quantization]'"
        ),
        failed("tunes", "full", "there are no rows"),
        failed("tunes", "lora", "no such column", "name another one", value="rows.csv: text"),
    )
    routing = part(page, "### Customer messages to queue and urgency (`routing`)")
    assert "Runs that ended without numbers:" in routing
    assert "- QLoRA: the library bitsandbytes is not installed (pip install 'tunesmith[quantization]')" in routing
    tunes = part(page, "### Tunes in ABC notation (`tunes`)")
    assert "No run of it has ended well." in tunes
    assert "- full tuning: there are no rows\n" in tunes
    assert "- LoRA: no such column: rows.csv: text (name another one)\n" in tunes
    assert "Runs that ended without numbers:" not in page_of(ran("routing", "full"))


def test_of_a_column_with_numbers_the_seed_that_has_none_is_named() -> None:
    page = page_of(
        ran("routing", "lora"),
        failed("routing", "lora", "the machine had no memory left", seed=1),
        failed("routing", "lora", "the disk was full", seed=2),
    )
    routing = part(page, "### Customer messages to queue and urgency (`routing`)")
    assert "- LoRA, seed 1: the machine had no memory left\n" in routing
    assert "- LoRA, seed 2: the disk was full\n" in routing
    assert row_of(page, "LoRA")["tuned"] == "0.500", "the seed that has them stands in the table"


def sharing_of(*results, **values) -> str:
    return part(page_of(*results, **values), "## Memory of several processes")


def test_memory_of_processes_stands_beside_what_it_is_held_against() -> None:
    page = page_of(
        shared("ddp", 4, tokens_per_second=1000.0),
        shared("deepspeed", 3, tokens_per_second=500.0),
        shared("lora", 2),
        ran("problems", "lora", kind="alone", peak_memory_bytes=2 * GIB),
    )
    zero2, lora, ddp = (row_of(page, name) for name in ("DeepSpeed (ZeRO-2)", "LoRA", "data parallelism"))
    assert zero2 == {
        "column": "DeepSpeed (ZeRO-2)",
        "each of two processes": "3.00 GiB, 3.00 GiB",
        "held against": "data parallelism, 4.00 GiB",
        "memory": "0.75",
        "time of a token": "2.00",
    }
    assert (lora["held against"], lora["memory"]) == ("one process, 2.00 GiB", "1.00")
    assert ddp["memory"] == ""


def test_sharing_that_failed_or_has_not_run_says_so() -> None:
    page = sharing_of(failed("problems", "zero", "DeepSpeed is not installed", kind="pooled"), shared("ddp", 4))
    assert "DeepSpeed is not installed" in page
    mode = matrix_of(shared("ddp", 4)).mode.model_copy(update={"pooled": ("ddp", "zero")})
    assert "not run yet" in sharing_of(shared("ddp", 4), mode=mode)


def test_the_hint_of_sharing_that_failed_is_told_too() -> None:
    page = page_of(failed("problems", "zero", "DeepSpeed is not here", "pip install deepspeed", kind="pooled"))
    assert "pip install deepspeed" in page


def test_what_sharing_would_be_held_against_says_why_it_is_not_there() -> None:
    page = page_of(shared("lora", 2), failed("problems", "lora", "the disk was busy", kind="alone"))
    assert row_of(page, "LoRA")["memory"] == ""
    assert "the disk was busy" in page


def test_without_sharing_there_is_no_part_about_it() -> None:
    assert "Memory of several processes" not in page_of(ran("routing", "lora"))


PRICE = {"price_per_hour": 1.8, "currency": "EUR", "price_date": "2026-11-01", "price_source": "an offer"}
COSTS = ("cost of the run (EUR, 2026-11-01)", "of a million tokens (EUR, 2026-11-01)")


def costs_of(page: str, title: str) -> tuple[str, ...]:
    return tuple(row_of(page, title)[head] for head in COSTS)


def test_a_price_turns_time_into_cost() -> None:
    page = page_of(
        ran("routing", "lora", total_seconds=36.0, tokens_per_second=500.0), price={**PRICE, "device": "cpu"}
    )
    assert costs_of(page, "LoRA") == ("0.0180", "1.0000")
    assert "price: an offer, 2026-11-01" in page
    assert "1.8 EUR an hour of the machine (an offer, 2026-11-01)" in part(page, "## Scenario by scenario")


def test_without_a_price_there_is_no_cost_and_the_page_says_why() -> None:
    page = page_of(ran("routing", "lora"))
    assert "cost" not in "".join(tables(page)[1][0])
    assert "No price was given (`--hardware FILE`)" in part(page, "## Scenario by scenario")


@pytest.mark.parametrize(
    ("device", "two_devices"),
    [("cuda", ("0.0360", "2.0000")), ("cpu", ("0.0180", "1.0000")), (None, ("–", "–"))],
)
def test_two_gpus_cost_twice_of_one_and_two_processes_of_a_machine_the_same(device, two_devices) -> None:
    values = {"total_seconds": 36.0, "tokens_per_second": 500.0}
    alone, shared_out = ran("routing", "lora", **values), ran("routing", "zero", **values)
    settings = cell("routing", "zero", settings=LAYOUT.column("zero").settings)
    price = {**PRICE, **({"device": device} if device else {})}
    page = page_of(alone, shared_out.model_copy(update={"cell": settings}), price=price)
    assert costs_of(page, "LoRA") == ("0.0180", "1.0000")
    assert costs_of(page, "ZeRO-3") == two_devices


def test_the_committed_page_is_that_of_the_measurements_that_ship() -> None:
    shipped, root = measured_matrix(), Path(__file__).parents[3]
    assert shipped is not None
    assert (root / "docs/matrix.md").read_text("utf-8") == matrix_page(LAYOUT, shipped, "matrix.png")
    sample = load_hardware(str(root / "docs/sample-price.yaml"))
    assert shipped.price is not None
    assert shipped.price == {key: sample.model_dump(mode="json")[key] for key in shipped.price}
    assert "a sample, no offer" in shipped.price["price_source"]


def test_the_picture_is_shown_where_there_is_one() -> None:
    assert "](results.png)" in page_of(ran("routing", "lora"), picture="results.png")
    assert "![" not in page_of(ran("routing", "lora"))


def test_the_page_says_how_it_was_made_and_on_what() -> None:
    here = {"time": "2026-11-24T05:40:12+00:00", "processor": "EPYC", "cores": 2, "torch": "2.13.0"}
    results = [
        ran("routing", "lora").model_copy(update={"conditions": here}),
        ran("routing", "full").model_copy(update={"conditions": {**here, "time": "2026-11-24T06:00:00+00:00"}}),
        ran("tunes", "full").model_copy(update={"conditions": {**here, "torch": "2.14.0"}}),
    ]
    page = page_of(
        *results, commands=("tunesmith matrix", "tunesmith matrix --full"), data={"routing": {"train": "ab12" * 16}}
    )
    assert "Written by `tunesmith matrix` and `tunesmith matrix --full`" in page
    where = part(page, "## What it ran on")
    assert where.count("EPYC") == 2, "the same machine is told once, another version anew"
    assert "torch 2.14.0" in where
    assert "train ab12ab12ab12" in where
    assert "3 runs, 2 minutes in all" in where
    for rule in RULES.values():
        assert rule in page


def test_one_of_something_is_no_plural() -> None:
    page = page_of(ran("routing", "lora").model_copy(update={"seconds": 60.0}))
    assert not re.search(r"\b1 (scenarios|runs|minutes)\b", page)


def test_folders_of_this_machine_are_not_on_the_page() -> None:
    page = page_of(ran("routing", "lora"), model="/home/somebody/models/tiny")
    assert "/home/somebody" not in page


def test_a_gain_that_is_decided_does_not_read_as_nothing() -> None:
    page = page_of(ran("routing", "lora", gain=Gain(value=0.0004, low=0.0002, high=0.0006)))
    assert row_of(page, "text classification, named entities, translation")["LoRA"] == "yes"
    assert "(+0.000 to" not in page


def every_kind(message: str) -> Matrix:
    return matrix_of(
        ran("routing", "lora"),
        ran("routing", "full"),
        failed("routing", "dora", message, hint=message),
        failed("problems", "zero", message, hint=message, kind="pooled"),
        shared("ddp", 4),
        price={**PRICE, "device": "cpu"},
    )


@pytest.mark.parametrize("message", ["no rows", "no turn begins with <|im_start|> here", "first line\nsecond line"])
def test_every_line_of_a_table_has_a_cell_for_each_head(message) -> None:
    page = matrix_page(LAYOUT, every_kind(message))
    assert len(tables(page)) == 3
    for table in tables(page):
        assert {len(line) for line in table} == {len(table[0])}


def test_the_page_says_what_its_sign_for_nothing_means() -> None:
    table = page_of(ran("routing", "lora")).partition("## The table")[2].partition("###")[0]
    assert "and – where nothing was measured that the rule asks for" in table
    assert "| – |" in table
