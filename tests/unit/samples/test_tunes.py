"""The bundled sample of tunes keeps the promises of its README, and is what its generator writes."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from tunesmith.evaluation.metrics import score
from tunesmith.evaluation.metrics.abc_notation import meter_length, parse_abc
from tunesmith.formats.inspect import inspect_source
from tunesmith.formats.overlap import overlap
from tunesmith.formats.read import read_examples
from tunesmith.samples import sample_folder
from tunesmith.tasks import prepare_task

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
FILES = {"train.jsonl": 240, "heldout.jsonl": 60}
TURN = 20
METERS = {"reel": "4/4", "hornpipe": "4/4", "jig": "6/8", "waltz": "3/4", "polka": "2/4"}
KEYS = {"D", "G", "A", "C", "Em", "Am", "Ador", "Edor"}
NOTE = re.compile(r"([A-Ga-g])([,']*)")


class Tune(NamedTuple):
    text: str

    @property
    def header(self) -> dict[str, str]:
        fields = (line.split(":", 1) for line in self.text.split("\n")[:6])
        return dict(fields)

    @property
    def parts(self) -> list[list[str]]:
        """The bars of each repeated part."""
        body = self.text.split("\n", 6)[6]
        assert re.fullmatch(r"(?:\|:[^:]+:\|\n?){2}", body), self.text
        return [part.replace("|\n", "|").split("|") for part in re.findall(r"\|:([^:]+):\|", body)]

    @property
    def phrases(self) -> list[list[str]]:
        """The halves of both parts."""
        return [half for bars in self.parts for half in (bars[: len(bars) // 2], bars[len(bars) // 2 :])]

    @property
    def keynote(self) -> int:
        return "CDEFGAB".index(self.header["K"][0])

    @property
    def cells(self) -> set[str]:
        """The rhythms that make up its bars."""
        return {cell for bars in self.parts for bar in bars for cell in NOTE.sub("n", bar).split(" ")}


def read(name: str) -> list[Tune]:
    text = (sample_folder("tunes") / name).read_bytes().decode("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert all(list(row) == ["text"] for row in rows)
    return [Tune(**row) for row in rows]


def steps(music: str) -> list[int]:
    """The notes as steps of the scale above middle C."""
    found = NOTE.findall(music)
    octaves = [7 * (name.islower() + marks.count("'") - marks.count(",")) for name, marks in found]
    return ["CDEFGAB".index(name.upper()) + octave for (name, _), octave in zip(found, octaves, strict=True)]


def runs(tune: Tune, size: int) -> set[tuple[str, ...]]:
    return {tuple(bars[start : start + size]) for bars in tune.parts for start in range(len(bars) - size + 1)}


def things(name: str) -> set[str]:
    """What the titles of a file name, without persons and manners, which the files share."""
    titles = [tune.header["T"] for tune in read(name)]
    found = {re.sub(r"^(?:The [A-Z][a-z]+|[A-Z][a-z]+'s) ", "", title) for title in titles if " and " not in title}
    halves = (half for title in titles if " and " in title for half in title.split(" and "))
    return found | {half[len("the ") :] for half in halves if half.startswith(("The ", "the "))}


def test_the_folder_holds_what_the_readme_says() -> None:
    readme = (sample_folder("tunes") / "README.md").read_text(encoding="utf-8")
    for name, rows in FILES.items():
        assert f"| `{name}` | {rows} | {rows // TURN}, each of {TURN} tunes |" in readme
        assert len(read(name)) == rows
    example = next(line for line in readme.splitlines() if line.startswith("{"))
    assert Tune(**json.loads(example)) in read("train.jsonl")


@pytest.mark.parametrize("name", FILES)
def test_files_are_lines_without_oddities(name: str) -> None:
    raw = (sample_folder("tunes") / name).read_bytes()
    assert raw.isascii()
    assert raw.endswith(b"}\n")
    assert b"\r" not in raw
    assert b"\n\n" not in raw
    for tune in read(name):
        assert 150 <= len(tune.text) <= 350
        assert all(line and line == " ".join(line.split()) for line in tune.text.split("\n")), tune.text
        assert not set("{}%") & set(tune.text)


@pytest.mark.parametrize("name", FILES)
def test_headers_are_complete_and_fit_the_dance(name: str) -> None:
    for tune in read(name):
        assert list(tune.header) == list("XTRMLK")
        assert tune.header["M"] == METERS[tune.header["R"]]
        assert tune.header["L"] == "1/8"
        assert tune.header["K"] in KEYS


def test_tunes_are_numbered_over_both_files() -> None:
    numbers = [int(tune.header["X"]) for name in FILES for tune in read(name)]
    assert numbers == list(range(1, sum(FILES.values()) + 1))


@pytest.mark.parametrize("name", FILES)
def test_the_parser_takes_every_tune_and_all_bars_are_as_long_as_the_meter(name: str) -> None:
    for tune in read(name):
        parsed = parse_abc(tune.text)
        assert not parsed.problems, tune.text
        assert {length for length, _, _ in parsed.bars} == {meter_length(tune.header["M"])}, tune.text
        assert len(parsed.bars) == sum(len(bars) for bars in tune.parts)
        assert len(parsed.bars) == 16 or (len(parsed.bars) == 8 and tune.header["M"] == "4/4")


@pytest.mark.parametrize("name", FILES)
def test_lines_have_four_bars(name: str) -> None:
    for tune in read(name):
        assert all(len(line.strip("|:").split("|")) == 4 for line in tune.text.split("\n")[6:]), tune.text


@pytest.mark.parametrize("name", FILES)
def test_a_phrase_asks_and_the_next_begins_like_it_and_answers(name: str) -> None:
    for tune in read(name):
        for asking, answering in (tune.phrases[:2], tune.phrases[2:]):
            assert len(asking) == len(answering) in (2, 4)
            assert (steps(asking[-1])[-1] - tune.keynote) % 7 != 0, tune.text
            assert (steps(answering[-1])[-1] - tune.keynote) % 7 == 0, tune.text
        first, second = tune.phrases[0], tune.phrases[1]
        same = max(1, len(first) - 2)
        assert first[:same] == second[:same], tune.text


@pytest.mark.parametrize("name", FILES)
def test_second_parts_answer_themselves_or_come_back_to_the_first(name: str) -> None:
    tunes = read(name)
    back = [tune for tune in tunes if tune.phrases[3] == tune.phrases[1]]
    assert 0.5 <= len(back) / len(tunes) <= 0.7
    for tune in tunes:
        _, answer, other, last = tune.phrases
        assert last == answer or last[: max(1, len(last) - 2)] == other[: max(1, len(last) - 2)], tune.text


@pytest.mark.parametrize("name", FILES)
def test_melodies_stay_in_their_range_without_wide_leaps(name: str) -> None:
    rises = 0
    for tune in read(name):
        bars = [steps(bar) for part in tune.parts for bar in part]
        notes = [note for bar in bars for note in bar]
        assert min(notes) >= tune.keynote - 3, tune.text
        assert max(notes) <= min(tune.keynote + 9, 13), tune.text
        assert all(abs(after - before) <= 7 for before, after in pairwise(notes)), tune.text
        assert all(len(set(steps(bar))) > 1 for phrase in tune.phrases for bar in phrase[:-1]), tune.text
        first, second = (steps(bars[0])[0] for bars in tune.parts)
        rises += second > first
    assert rises > 0.5 * FILES[name]


@pytest.mark.parametrize("name", FILES)
def test_dances_have_their_own_rhythms(name: str) -> None:
    for tune in read(name):
        dance, music = tune.header["R"], tune.text.split("\n", 6)[6]
        assert ">" in music or dance != "hornpipe"
        assert ">" not in music or dance in ("hornpipe", "polka")
        assert "(3" not in music or dance == "hornpipe"
        assert "/" not in music or dance == "polka"


@pytest.mark.parametrize("name", FILES)
def test_dances_and_keys_are_balanced_and_in_mixed_order(name: str) -> None:
    tunes = read(name)
    pairs = [(tune.header["R"], tune.header["K"]) for tune in tunes]
    assert set(Counter(dance for dance, _ in pairs).values()) == {len(tunes) // len(METERS)}
    assert max(Counter(key for _, key in pairs).values()) <= len(tunes) // len(KEYS) + 1
    turns = [pairs[start : start + TURN] for start in range(0, len(pairs), TURN)]
    assert all(len(set(turn)) == TURN for turn in turns)
    assert all(not set(turn) & set(following) for turn, following in pairwise(turns))
    assert len({tuple(turn) for turn in turns}) == len(turns)
    assert sum(left[0] == right[0] for left, right in pairwise(pairs)) < 0.25 * len(pairs)


def test_no_title_and_no_first_part_comes_twice() -> None:
    tunes = [tune for name in FILES for tune in read(name)]
    assert len({tune.header["T"] for tune in tunes}) == len(tunes)
    assert len({tuple(tune.parts[0]) for tune in tunes}) == len(tunes)


def test_held_out_tunes_share_no_things_and_no_two_bars_with_training() -> None:
    assert len(things("heldout.jsonl")) >= 10
    words = [{word for thing in things(name) for word in thing.split()} for name in FILES]
    assert not words[0] & words[1]
    seen = {run for tune in read("train.jsonl") for run in runs(tune, 2)}
    held_out = [run for tune in read("heldout.jsonl") for run in runs(tune, 2)]
    assert len(held_out) > 400
    assert not seen.intersection(held_out)


def test_held_out_tunes_have_rhythms_of_their_dance_in_training() -> None:
    seen: dict[str, set[str]] = {dance: set() for dance in METERS}
    for tune in read("train.jsonl"):
        seen[tune.header["R"]] |= tune.cells
    assert all(tune.cells <= seen[tune.header["R"]] for tune in read("heldout.jsonl"))


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_read_as_texts_and_measured_as_tunes(name: str) -> None:
    inspection = inspect_source(sample_folder("tunes") / name)
    assert (inspection.shape, inspection.rows) == ("text", FILES[name])
    assert inspection.bad_rows.lines() == []
    assert not inspection.duplicates
    assert not inspection.warnings
    inspection.require_usable()
    examples = [example for _, example in read_examples(inspection)]
    task = prepare_task("creative", inspection, examples)
    assert task.metrics == ("abc_bars", "abc_valid", "distinct_1", "distinct_2", "distinct_3")
    rows = [row for example in examples if (row := task.evaluation(example)) is not None]
    assert all(row.messages[1].content.splitlines()[-1].startswith("K:") for row in rows)
    found = score(task.metrics, [row.shown_reference for row in rows], [row.reference for row in rows])
    assert found["abc_valid"]["value"] == found["abc_bars"]["value"] == 1


def test_no_held_out_row_is_a_training_row() -> None:
    folder = sample_folder("tunes")
    found = overlap(folder / "train.jsonl", folder / "heldout.jsonl")
    assert (found.exact, found.same_prompt) == (0, 0)


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("make_tunes")


def run(generator: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["make_tunes.py", *options])
    code: int = generator.main()
    return code


def test_the_files_are_what_the_generator_writes(generator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sample_folder("tunes").samefile(generator.FOLDER)
    assert run(generator, monkeypatch, "--check") == 0


def test_the_check_fails_on_missing_and_changed_files_and_writes_nothing(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = {f"{part}.jsonl": "{}\n" for part in generator.TURNS}
    monkeypatch.setattr(generator, "sample_files", lambda: files)
    monkeypatch.setattr(generator, "FOLDER", tmp_path)
    assert run(generator, monkeypatch, "--check") == 1
    assert not list(tmp_path.iterdir())
    assert run(generator, monkeypatch) == 0
    assert run(generator, monkeypatch, "--check") == 0
    changed = (tmp_path / "heldout.jsonl").read_bytes() + b"{}\n"
    (tmp_path / "heldout.jsonl").write_bytes(changed)
    assert run(generator, monkeypatch, "--check") == 1
    assert (tmp_path / "heldout.jsonl").read_bytes() == changed


@pytest.mark.parametrize(
    ("note", "written"), [(-8, "B,,"), (-3, "G,"), (-1, "B,"), (0, "C"), (6, "B"), (7, "c"), (13, "b"), (14, "c'")]
)
def test_the_generator_writes_pitches(generator: ModuleType, note: int, written: str) -> None:
    pitch = importlib.import_module("tune_composer").pitch
    assert pitch(note) == written
    assert steps(written) == [note]
