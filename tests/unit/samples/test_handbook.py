"""The bundled sample of handbook sections keeps the promises of its README, and is what its generator writes."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
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

FILES = {"train.jsonl": 160, "heldout.jsonl": 40}
# How often a remark of a side is used.
REMARKS = {"train.jsonl": 2, "heldout.jsonl": 1}
FRAMES: dict[str, Any] = yaml.safe_load((SCRIPTS / "handbook_frames.yaml").read_text(encoding="utf-8"))
TITLE = re.compile(r"(?P<chapter>\d+)\.(?P<section>[1-8]) (?P<part>[A-Z][a-z]+ [a-z]+): (?P<subject>.+)")
CODE = re.compile(r"\b[A-Z]-\d\d\b")
# Facts of a part by what stands beside them in its sections.
MEASURES = {
    "days": r"(\d+) days",
    "limit": r"(\d+) millimetres",
    "force": r"(\d+) newton metres",
    "weight": r"(\d+) kilograms",
    "grams": r"(\d+) grams",
    "minutes": r"(\d+) minutes",
    "winters": r"(\d+) winters",
    "wind": r"(\d+) kilometres",
    "shelf": r"[Ss]helf,? (\d+)",
    "code": rf"({CODE.pattern})",
}


class Section(NamedTuple):
    text: str
    chapter: str
    number: int
    part: str
    subject: str
    body: str


def read(name: str) -> list[Section]:
    sections = []
    for line in sample_text("handbook", name).splitlines():
        row = json.loads(line)
        assert list(row) == ["text"]
        title, body = row["text"].split("\n")
        match = TITLE.fullmatch(title)
        assert match is not None, title
        subject = CODE.sub("{code}", match["subject"])
        sections.append(Section(row["text"], match["chapter"], int(match["section"]), match["part"], subject, body))
    return sections


def sentences(section: Section) -> list[str]:
    return re.split(r"(?<=\.) ", section.body)


def facts(name: str) -> dict[str, dict[str, set[str]]]:
    """Of every part, each measure with all values that its sections give."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for section in read(name):
        for measure, pattern in MEASURES.items():
            found[section.part][measure].update(re.findall(pattern, section.text))
    return found


def test_the_folder_holds_what_the_readme_says() -> None:
    folder = sample_folder("handbook")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for name, rows in FILES.items():
        parts = {section.part for section in read(name)}
        assert f"| `{name}` | {rows} | {len(parts)}" in readme
        assert len(read(name)) == rows == 8 * len(parts)
    example = next(line for line in readme.splitlines() if line.startswith("{"))
    assert example in sample_text("handbook", "train.jsonl").splitlines()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 200_000


@pytest.mark.parametrize("name", FILES)
def test_rows_are_read_as_texts(name: str) -> None:
    inspection = inspect_source(sample_folder("handbook") / name)
    assert (inspection.shape, inspection.task, inspection.good_rows) == ("text", "text", FILES[name])
    assert (inspection.bad_rows.count, inspection.duplicates, inspection.warnings) == (0, 0, ())


@pytest.mark.parametrize("name", FILES)
def test_a_section_is_a_title_and_a_paragraph_of_seven_sentences(name: str) -> None:
    titles = [kind["title"] for kind in FRAMES["kinds"]]
    for section in read(name):
        assert 400 <= len(section.text) <= 900
        assert section.subject == titles[section.number - 1]
        assert section.body == " ".join(section.body.split())
        assert not set("{}") & set(section.text)
        assert len(sentences(section)) == 7, section.body
        assert all(sentence[0].isupper() or sentence[0].isdigit() for sentence in sentences(section)), section.body
        assert section.body.endswith(".")
        assert section.part.lower() in section.body.lower()
        assert not re.search(r"\b[Aa] (?:[aeiou]|[A-Z]-)", section.text), section.text


@pytest.mark.parametrize("name", FILES)
def test_every_stretch_of_rows_has_every_subject_once_in_mixed_order(name: str) -> None:
    subjects = [section.subject for section in read(name)]
    turns = [tuple(subjects[start : start + 8]) for start in range(0, len(subjects), 8)]
    assert all(len(set(turn)) == 8 for turn in turns)
    assert len(set(turns)) == len(turns)


@pytest.mark.parametrize("name", FILES)
def test_every_part_has_one_chapter_of_eight_sections(name: str) -> None:
    chapters = defaultdict(list)
    for section in read(name):
        chapters[section.chapter, section.part].append(section.number)
    assert all(sorted(numbers) == list(range(1, 9)) for numbers in chapters.values())
    assert len({chapter for chapter, _ in chapters}) == len({part for _, part in chapters}) == len(chapters)


@pytest.mark.parametrize("name", FILES)
def test_the_facts_of_a_part_agree_in_all_of_its_sections(name: str) -> None:
    found = facts(name)
    for measures in found.values():
        assert all(len(values) <= 1 for values in measures.values()), measures
        assert measures["code"]
    for unique in ("code", "shelf"):
        given = [value for measures in found.values() for value in measures[unique]]
        assert len(set(given)) == len(given)


@pytest.mark.parametrize("name", FILES)
def test_remarks_are_used_equally_often(name: str) -> None:
    remarks = [remark for kind in FRAMES["kinds"] for remark in kind["remarks"][name.removesuffix(".jsonl")]]
    used = Counter(remark for section in read(name) for remark in remarks if remark in section.body)
    assert set(used.values()) == {REMARKS[name]}
    assert len(used) == len(set(remarks)) == FILES[name] / REMARKS[name]


def test_held_out_sections_are_about_other_parts_and_numbers() -> None:
    train, heldout = read("train.jsonl"), read("heldout.jsonl")
    assert not {section.part for section in train} & {section.part for section in heldout}
    assert not {section.chapter for section in train} & {section.chapter for section in heldout}
    sides = [facts(name) for name in FILES]
    for measure in MEASURES:
        values = [set[str]().union(*(part[measure] for part in side.values())) for side in sides]
        assert all(values), measure
        assert not values[0] & values[1], measure


def test_held_out_sections_share_no_twelve_words_in_a_row_with_training() -> None:
    def all_runs(name: str, size: int) -> list[tuple[str, ...]]:
        return [run for section in read(name) for run in runs(section.text, size)]

    assert len(all_runs("heldout.jsonl", 12)) > 3000
    assert not set(all_runs("train.jsonl", 12)) & set(all_runs("heldout.jsonl", 12))
    seen, held_out = set(all_runs("train.jsonl", 8)), all_runs("heldout.jsonl", 8)
    assert sum(run in seen for run in held_out) < 0.08 * len(held_out)
    folder = sample_folder("handbook")
    assert overlap(folder / "train.jsonl", folder / "heldout.jsonl").exact == 0


def test_no_section_is_a_near_duplicate_of_another() -> None:
    shingles = [set(runs(section.text, 3)) for name in FILES for section in read(name)]
    alike = max(len(left & right) / len(left | right) for left, right in combinations(shingles, 2))
    assert alike < 0.4


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script(monkeypatch, "make_handbook")


def test_the_files_are_what_the_generator_writes(generator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sample_folder("handbook").samefile(generator.FOLDER)
    assert run_script(generator, monkeypatch, "--check") == 0


def test_the_check_fails_on_missing_and_changed_files_and_writes_nothing(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert_check_notices_changes(generator, monkeypatch, tmp_path)


def test_the_generator_refuses_a_section_of_which_too_much_was_seen(generator: ModuleType) -> None:
    kind = {"title": "a title", "sentences": [["The {part} is one two three four five six seven eight nine ten."]]}
    facts = {"part": "tarrel sheave", "chapter": 1, "section": 1}
    text = generator.section(kind, facts, "A remark.", random.Random(1))
    with pytest.raises(ValueError, match="tarrel sheave, a title, shares 12 words"):
        generator.new_section(kind, facts, "A remark.", set(generator.runs(text)), random.Random(1))


def test_the_generator_refuses_remarks_that_do_not_go_evenly_into_the_rows(generator: ModuleType) -> None:
    with pytest.raises(ValueError, match="2 remarks do not go evenly into 3 rows"):
        generator.in_turns(["One.", "Two."], 3, random.Random(1))
