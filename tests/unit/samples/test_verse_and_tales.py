"""The bundled poems and tales keep the promises of their READMEs, and are measured as pieces of writing."""

from __future__ import annotations

import json
from itertools import combinations

import pytest
from sample_texts import runs, sample_text, words

from tunesmith.evaluation.metrics.score import score
from tunesmith.formats.inspect import inspect_source
from tunesmith.formats.read import read_examples
from tunesmith.samples import sample_folder
from tunesmith.tasks import prepare_task

SAMPLES = {"verse": {"train.jsonl": 48, "heldout.jsonl": 12}, "tales": {"train.jsonl": 36, "heldout.jsonl": 12}}
FILES = [(sample, name) for sample, files in SAMPLES.items() for name in files]
# No training row has so many words of a held-out row next to each other.
RUN = 8


def read(sample: str, name: str) -> list[str]:
    rows = [json.loads(line) for line in sample_text(sample, name).splitlines()]
    assert all(list(row) == ["text"] for row in rows)
    return [row["text"] for row in rows]


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_folder_holds_what_the_readme_says(sample: str) -> None:
    readme = (sample_folder(sample) / "README.md").read_text(encoding="utf-8")
    for name, rows in SAMPLES[sample].items():
        assert f"| `{name}` | {rows} |" in readme
        assert len(read(sample, name)) == rows
    example = next(line for line in readme.splitlines() if line.startswith("{"))
    assert example in sample_text(sample, "train.jsonl").splitlines()


@pytest.mark.parametrize("name", SAMPLES["verse"])
def test_a_poem_is_a_title_and_two_stanzas_of_four_lines(name: str) -> None:
    for poem in read("verse", name):
        title, *stanzas = poem.split("\n", 1)[0], *poem.split("\n", 1)[1].split("\n\n")
        assert title == title.strip()
        assert title
        assert [len(stanza.splitlines()) for stanza in stanzas] == [4, 4], poem
        assert 200 <= len(poem) <= 320, poem


@pytest.mark.parametrize("name", SAMPLES["tales"])
def test_a_tale_is_a_title_and_a_paragraph(name: str) -> None:
    for tale in read("tales", name):
        title, paragraph = tale.split("\n")
        assert title == title.strip()
        assert 70 <= len(words(paragraph)) <= 95, tale
        assert paragraph.endswith(".")


@pytest.mark.parametrize("sample", SAMPLES)
def test_held_out_pieces_are_new(sample: str) -> None:
    train, heldout = read(sample, "train.jsonl"), read(sample, "heldout.jsonl")
    titles = [piece.splitlines()[0] for piece in train + heldout]
    assert len(set(titles)) == len(titles)
    learned = {run for piece in train for run in runs(piece, RUN)}
    assert learned
    assert not learned & {run for piece in heldout for run in runs(piece, RUN)}
    if sample == "verse":
        lines = [{line for line in poem.splitlines()[1:] if line} for poem in train + heldout]
        assert not any(one & other for one, other in combinations(lines, 2))


@pytest.mark.parametrize(("sample", "name"), FILES)
def test_the_files_are_read_as_texts_and_written_on_from_their_beginning(sample: str, name: str) -> None:
    inspection = inspect_source(sample_folder(sample) / name)
    assert (inspection.shape, inspection.good_rows) == ("text", SAMPLES[sample][name])
    assert (inspection.bad_rows.count, inspection.duplicates, inspection.warnings) == (0, 0, ())
    examples = [example for _, example in read_examples(inspection)]
    task = prepare_task("creative", inspection, examples)
    assert task.metrics == ("chrf", "distinct_1", "distinct_2", "distinct_3")
    rows = [row for example in examples if (row := task.evaluation(example)) is not None]
    for piece, row in zip(read(sample, name), rows, strict=True):
        opening = row.messages[-1].content.removeprefix("Write on:\n")
        assert piece.startswith(opening)
        assert piece.endswith(row.shown_reference)
        assert 0.1 < len(opening) / len(piece) < 0.5
    found = score(task.metrics, [row.shown_reference for row in rows], [row.reference for row in rows])
    assert found["distinct_1"]["value"] < found["distinct_2"]["value"] < found["distinct_3"]["value"] <= 1
