"""Splits are seeded, exact and leak-free; overlap and choices of rows are what they say."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.errors import DataError, UsageError
from tunesmith.formats.identity import group_digest
from tunesmith.formats.inspect import inspect_source
from tunesmith.formats.overlap import overlap
from tunesmith.formats.read import choose_rows, read_examples
from tunesmith.formats.split import Split, plan_split

Write = Callable[..., Path]


def sides(path: Path, split: Split) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"train": [], "validation": []}
    for place, example in read_examples(path):
        found[split.side(place, example)].append(str(place))
    return found


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.integers(0, 15), min_size=2, max_size=60).filter(lambda prompts: len(set(prompts)) > 1),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_no_prompt_stands_on_both_sides(prompts: list[int], fraction: float, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        rows = [{"prompt": f"Ask {prompt}", "completion": f"{n}"} for n, prompt in enumerate(prompts)]
        path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
        split = plan_split(path, fraction=fraction, seed=seed)
        groups: dict[str, set[bytes]] = {"train": set(), "validation": set()}
        counts = {"train": 0, "validation": 0}
        for place, example in read_examples(path):
            side = split.side(place, example)
            groups[side].add(group_digest(example))
            counts[side] += 1
    assert not groups["train"] & groups["validation"]
    assert counts == {"train": split.train_rows, "validation": split.validation_rows}
    assert min(counts.values()) > 0
    largest = max(prompts.count(prompt) for prompt in prompts)
    assert abs(split.validation_rows - len(prompts) * fraction) <= largest + 1


@pytest.mark.parametrize(
    ("rows", "fraction", "expected"), [(2, 0.1, 1), (10, 0.1, 1), (15, 0.1, 2), (300, 0.1, 30), (3, 0.9, 2)]
)
def test_sizes_of_small_sets(write: Write, rows: int, fraction: float, expected: int) -> None:
    path = write("rows.jsonl", [{"text": f"text {n}"} for n in range(rows)])
    split = plan_split(path, fraction=fraction, seed=0)
    assert (split.validation_rows, split.train_rows) == (expected, rows - expected)
    assert split.describe() == (f"{expected} of {rows} rows held out for validation (seed 0, kept together by prompt)")


def test_the_seed_decides_and_the_order_of_rows_does_not(write: Write) -> None:
    rows: list[object] = [{"text": f"text {n}", "label": "x"} for n in range(100)]
    path, reverse = write("rows.jsonl", rows), write("reverse.jsonl", rows[::-1])
    first = plan_split(path, fraction=0.2, seed=1)
    assert first == plan_split(path, fraction=0.2, seed=1)
    assert first.validation_groups == plan_split(reverse, fraction=0.2, seed=1).validation_groups
    assert sides(path, first) != sides(path, plan_split(path, fraction=0.2, seed=2))


def test_case_and_blanks_do_not_make_another_prompt(write: Write) -> None:
    path = write("rows.jsonl", [{"question": q, "answer": "a"} for q in ("Who  is it?", "who is it? ", "Why?")])
    assert plan_split(path, fraction=0.5, seed=0).groups == 2


def test_questions_about_one_context_and_chats_with_one_opening_stay_together(write: Write) -> None:
    questions = [{"context": f"c{n // 5}", "question": f"q{n}", "answer": "a"} for n in range(20)]
    assert plan_split(write("qa.jsonl", questions), fraction=0.25, seed=0).groups == 4
    chats = [
        {
            "messages": [
                {"role": "system", "content": "Be kind"},
                {"role": "user", "content": f"opening {n % 3}"},
                {"role": "assistant", "content": f"answer {n}"},
                {"role": "user", "content": f"more {n}"},
                {"role": "assistant", "content": "end"},
            ]
        }
        for n in range(9)
    ]
    assert plan_split(write("chat.jsonl", chats), fraction=0.3, seed=0).groups == 3


def test_rows_of_a_single_prompt_are_split_row_by_row(write: Write) -> None:
    rows = [{"prompt": "Write a tune", "completion": f"tune {n // 2}"} for n in range(20)]
    split = plan_split(write("rows.jsonl", rows), fraction=0.2, seed=0)
    assert (split.grouped_by, split.groups, split.validation_rows) == ("row", 10, 4)


@pytest.mark.parametrize("rows", [1, 3])
def test_one_row_cannot_be_split(write: Write, rows: int) -> None:
    path = write("rows.jsonl", [{"text": "only"}] * rows)
    with pytest.raises(DataError) as caught:
        plan_split(path, fraction=0.1, seed=0)
    assert (caught.value.code, caught.value.place) == ("data.too_small_to_split", str(path))


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 2])
def test_fractions_lie_between_nothing_and_all(write: Write, fraction: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        plan_split(write("rows.jsonl", [{"text": "a"}, {"text": "b"}]), fraction=fraction, seed=0)


def test_overlap_names_rows_and_prompts(write: Write) -> None:
    train = write("train.jsonl", [{"prompt": f"p{n}", "completion": "c"} for n in range(5)])
    held = [
        {"prompt": "p1", "completion": "c"},
        {"prompt": "P2", "completion": "other"},
        {"prompt": "new", "completion": "c"},
    ]
    found = overlap(train, inspect_source(write("held.jsonl", held)))
    assert (found.exact, found.same_prompt) == (1, 2)
    assert [(str(mine), str(theirs)) for mine, theirs in found.first] == [
        ("held.jsonl:1", "train.jsonl:2"),
        ("held.jsonl:2", "train.jsonl:3"),
    ]


def test_a_split_has_no_overlap_of_prompts(write: Write) -> None:
    rows = [{"text": f"t{n % 40}", "label": str(n % 3)} for n in range(100)]
    path = write("rows.jsonl", rows)
    split = plan_split(path, fraction=0.3, seed=0)
    kept: dict[str, list[object]] = {"train": [], "validation": []}
    for place, example in read_examples(path):
        kept[split.side(place, example)].append(rows[place.line - 1])
    assert overlap(write("t.jsonl", kept["train"]), write("v.jsonl", kept["validation"])).same_prompt == 0


def test_choices_of_rows_are_seeded_and_nested() -> None:
    half, quarter = choose_rows(100, 50, seed=4), choose_rows(100, 25, seed=4)
    assert len(set(half)) == 50
    assert list(half) == sorted(half)
    assert set(quarter) < set(half) < set(range(100))
    assert half == choose_rows(100, 50, seed=4) != choose_rows(100, 50, seed=5)
    assert choose_rows(3, 10, seed=0) == (0, 1, 2)
    with pytest.raises(UsageError):
        choose_rows(3, -1, seed=0)
