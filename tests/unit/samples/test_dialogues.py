"""The bundled sample of dialogues keeps the promises of its README, and is what its generator writes."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import yaml
from sample_texts import SCRIPTS, assert_check_notices_changes, load_script, run_script, runs, sample_text

from tunesmith.formats.inspect import inspect_source
from tunesmith.formats.overlap import overlap
from tunesmith.samples import sample_folder
from tunesmith.tasks.answers import answer_form

FILES = {"train.jsonl": 240, "heldout.jsonl": 60}
FILLINGS = {"train.jsonl": 12, "heldout.jsonl": 3}
FRAMES: dict[str, Any] = yaml.safe_load((SCRIPTS / "dialogue_frames.yaml").read_text(encoding="utf-8"))
PRICES = {name: service["price"] for name, service in FRAMES["services"].items()}
FIXED = FRAMES["fixed"]
CLOSING = "Good roads from Quillbeck Cycles!"
OPEN_DAYS = ["Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]
DAY = re.compile(rf"\b(?:{'|'.join(OPEN_DAYS)}|Sunday|Monday)\b")
WHEN = ["the same day", "on the next opening day", "two opening days later"]
HOURS = {9, 13, 18}
READY = re.compile(r"(?:rought|left with us|Ordered) on (\w+)[^.]* is ready (?:on (\w+)|the same day)")


class Row(NamedTuple):
    turns: tuple[str, ...]

    @property
    def asked(self) -> tuple[str, ...]:
        return self.turns[::2]

    @property
    def answers(self) -> tuple[str, ...]:
        return self.turns[1::2]

    @property
    def jobs(self) -> list[str]:
        return [name for name in PRICES if any(name in turn for turn in self.turns)]


def read(name: str) -> list[Row]:
    rows = []
    for line in sample_text("dialogues", name).splitlines():
        row = json.loads(line)
        assert list(row) == ["messages"]
        assert [list(message) for message in row["messages"]] == [["role", "content"]] * len(row["messages"])
        system, *turns = row["messages"]
        assert system == {"role": "system", "content": FRAMES["system"]}
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        rows.append(Row(tuple(turn["content"] for turn in turns)))
    return rows


def numbers(text: str) -> set[int]:
    return {int(digits) for digits in re.findall(r"\d+", text)}


def amounts(row: Row) -> set[int]:
    """All that the lists of the README and the customer's words make of each other, in euros."""
    said = {number for turn in row.asked for number in numbers(turn)}
    prices = {PRICES[name] for name in row.jobs}
    rents = {count * FIXED["loan"] for count in said if count < 10}
    follow = {sum(pair) for pair in combinations(prices, 2)} | {price + FIXED["collection"] for price in prices}
    follow |= rents | {rent + FIXED["deposit"] for rent in rents}
    follow |= {number - known for number in said for known in (FIXED["deposit"], *prices)}
    return said | prices | follow | set(FIXED.values()) | {0}


def test_the_folder_holds_what_the_readme_says() -> None:
    folder = sample_folder("dialogues")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for name, rows in FILES.items():
        row = next(line for line in readme.splitlines() if line.startswith(f"| `{name}` | {rows} |"))
        assert f"each filled {FILLINGS[name]} times" in row
        assert len(read(name)) == rows
    for name, service in FRAMES["services"].items():
        assert f"| {name} | {service['price']} | {WHEN[service['days']]} |" in readme
    assert all(str(price) in readme for price in FIXED.values())
    example = next(line for line in readme.splitlines() if line.startswith("{"))
    assert example in sample_text("dialogues", "train.jsonl").splitlines()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 200_000


@pytest.mark.parametrize("name", FILES)
def test_rows_are_read_as_conversations(name: str) -> None:
    inspection = inspect_source(sample_folder("dialogues") / name)
    assert (inspection.shape, inspection.task, inspection.good_rows) == ("chat", "chat", FILES[name])
    assert (inspection.bad_rows.count, inspection.duplicates, inspection.warnings) == (0, 0, ())
    assert answer_form([row.answers[-1] for row in read(name)]) == "long"


@pytest.mark.parametrize("name", FILES)
def test_turns_are_sentences_without_oddities(name: str) -> None:
    for row in read(name):
        assert 2 <= len(row.answers) <= 3
        for turn in row.turns:
            assert turn == " ".join(turn.split())
            assert turn[0].isupper() or turn[0].isdigit()
            assert not set("{}") & set(turn)
            assert not re.search(r"\b[Aa] [aeiou]", turn), turn


@pytest.mark.parametrize("name", FILES)
def test_answers_keep_to_the_house_style(name: str) -> None:
    cast = FRAMES["cast"][name.removesuffix(".jsonl")]
    for row in read(name):
        for answer in row.answers:
            assert len(answer.split()) <= 25, answer
            assert any(known in answer for known in cast["name"] + cast["bike"]), answer
            assert DAY.search(answer) or numbers(answer), answer
        *earlier, last = row.answers
        assert all(answer.endswith("?") and CLOSING not in answer for answer in earlier), row
        assert last.endswith(f". {CLOSING}"), row


@pytest.mark.parametrize("name", FILES)
def test_answers_make_no_number_up(name: str) -> None:
    for row in read(name):
        for answer in row.answers:
            assert numbers(answer) <= amounts(row) | HOURS, answer


@pytest.mark.parametrize("name", FILES)
def test_things_are_ready_when_the_list_says(name: str) -> None:
    found = 0
    for row in read(name):
        for day, told in READY.findall(" ".join(row.answers)):
            found += 1
            # What is no job is a key, ready on the next opening day.
            days = max((FRAMES["services"][job]["days"] for job in row.jobs), default=1)
            wanted = OPEN_DAYS[(OPEN_DAYS.index(day) + days) % 5]
            assert (told or day) == wanted, row
            assert bool(told) == bool(days), row
    assert found >= 0.3 * FILES[name]


@pytest.mark.parametrize("name", FILES)
def test_nobody_is_expected_when_the_workshop_is_closed(name: str) -> None:
    for row in read(name):
        for answer in row.answers:
            for day, hour in re.findall(r"(\w+day) at (\d+):", answer):
                assert day in OPEN_DAYS, answer
                assert 9 <= int(hour) < (13 if day == "Saturday" else 18), answer
            if re.search("Sunday|Monday", answer):
                assert "we are closed" in answer


def test_held_out_customers_use_wordings_of_their_own() -> None:
    seen = {run for row in read("train.jsonl") for turn in row.asked for run in runs(turn, 5)}
    held_out = [run for row in read("heldout.jsonl") for turn in row.asked for run in runs(turn, 5)]
    assert len(held_out) > 900
    assert not [run for run in held_out if run in seen]


def test_no_answer_stands_on_both_sides() -> None:
    answers = [{answer for row in read(name) for answer in row.answers} for name in FILES]
    assert not answers[0] & answers[1]
    folder = sample_folder("dialogues")
    shared = overlap(folder / "train.jsonl", folder / "heldout.jsonl")
    assert (shared.exact, shared.same_prompt) == (0, 0)


def test_the_sides_have_other_names_bicycles_hours_and_parts() -> None:
    train, heldout = FRAMES["cast"]["train"], FRAMES["cast"]["heldout"]
    for kind in ("name", "bike", "morning", "afternoon", "spot", "part"):
        assert not set(train[kind]) & set(heldout[kind]), kind


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script(monkeypatch, "make_dialogues")


def test_each_job_has_a_day_that_only_held_out_customers_choose(generator: ModuleType) -> None:
    train, heldout = ({(row.service, row.day) for row in generator.rows(side)} for side in ("train", "heldout"))
    assert not train & heldout
    assert {service for service, _ in heldout} == set(PRICES)
    assert len(heldout) == len(PRICES)


@pytest.mark.parametrize("side", ["train", "heldout"])
def test_every_stretch_of_rows_has_every_scene_once_in_mixed_order(generator: ModuleType, side: str) -> None:
    scenes = [row.scene for row in generator.rows(side)]
    count = len(FRAMES["scenes"])
    turns = [tuple(scenes[start : start + count]) for start in range(0, len(scenes), count)]
    assert all(len(set(turn)) == count for turn in turns)
    assert len(set(turns)) == len(turns) == generator.FILLINGS[side]


def test_the_files_are_what_the_generator_writes(generator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sample_folder("dialogues").samefile(generator.FOLDER)
    assert run_script(generator, monkeypatch, "--check") == 0


def test_the_check_fails_on_missing_and_changed_files_and_writes_nothing(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert_check_notices_changes(generator, monkeypatch, tmp_path)
