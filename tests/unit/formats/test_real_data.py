"""Every real sample file is read as a person would read it, without one bad row."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tunesmith.errors import DataError
from tunesmith.formats.inspect import inspect_source
from tunesmith.formats.overlap import overlap
from tunesmith.formats.split import plan_split

EXPECTED = {
    "chat/alpaca_style_instructions.jsonl": ("prompt_completion", 939),
    "chat/sgd_dialogues.jsonl": ("chat", 511),
    "chat/xbox_support.jsonl": ("chat", 3),
    "classification/banking77_test.csv": ("text_label", 1540),
    "classification/banking77_train.csv": ("text_label", 9972),
    "classification/sentiment_amazon.csv": ("text_label", 983),
    "domain_legal/site_policies.jsonl": ("text", 34),
    "domain_medical/medquad.jsonl": ("question_answer", 1000),
    "function_calling/bfcl_irrelevance.jsonl": ("function_calls", 140),
    "function_calling/bfcl_parallel.jsonl": ("function_calls", 120),
    "function_calling/bfcl_simple.jsonl": ("function_calls", 300),
    "math/gsm8k_test.jsonl": ("question_answer", 300),
    "math/gsm8k_train.jsonl": ("question_answer", 1500),
    "ner/snips_slots_test.jsonl": ("entities", 342),
    "ner/snips_slots_train.jsonl": ("entities", 2087),
    "ner/wnut17_dev.jsonl": ("entities", 1005),
    "ner/wnut17_train.jsonl": ("entities", 3280),
    "preference/instructions_chosen_rejected.jsonl": ("preference", 939),
    "qa/nq_open.jsonl": ("question_answer", 2400),
    "qa/xquad_en.jsonl": ("question_answer", 839),
    "text_to_sql/wikisql_train.jsonl": ("text", 1000),
    "text_to_sql/wikisql_valid.jsonl": ("text", 100),
    "translation/tatoeba_en_de.jsonl": ("translation", 790),
    "translation/tatoeba_en_es.jsonl": ("translation", 801),
    "translation/tatoeba_en_fr.jsonl": ("translation", 779),
}
# Columns without a usual meaning: refused with a hint instead of guessed.
UNKNOWN = ("music/irish_abc.jsonl",)


def test_no_file_is_left_out(real_data: Path) -> None:
    found = {path.relative_to(real_data).as_posix() for path in real_data.glob("*/*") if path.is_file()}
    assert found <= {*EXPECTED, *UNKNOWN}


@pytest.mark.parametrize("name", EXPECTED)
def test_shape_and_rows(real_data: Path, name: str) -> None:
    found = inspect_source(real_data / name)
    assert (found.shape, found.rows) == EXPECTED[name]
    assert found.bad_rows.lines() == []
    found.require_usable()


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_columns_are_refused(real_data: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        inspect_source(real_data / name)
    assert caught.value.code == "data.unknown_shape"
    assert "name the columns with a column map, for example {text: " in (caught.value.hint or "")


def test_a_column_map_reads_what_was_refused(real_data: Path) -> None:
    found = inspect_source(real_data / "music/irish_abc.jsonl", columns={"text": "abc"})
    assert (found.shape, found.rows, found.bad_rows.count) == ("text", 700, 0)


@pytest.mark.parametrize("asked", [{"shape": "text_label"}, {"columns": {"label": "intent"}}])
def test_intents_instead_of_entities(real_data: Path, asked: dict[str, object]) -> None:
    found = inspect_source(real_data / "ner/snips_slots_test.jsonl", **asked)  # type: ignore[arg-type]
    assert (found.shape, found.columns["label"], len(found.label_counts)) == ("text_label", "intent", 7)
    assert "shape" in inspect_source(real_data / "ner/snips_slots_test.jsonl").warnings[0]


def test_contexts_stay_on_one_side(real_data: Path) -> None:
    split = plan_split(real_data / "qa/xquad_en.jsonl", fraction=0.1, seed=3)
    assert abs(split.validation_rows - 84) <= 4
    assert split.groups < 250


def test_known_label_counts_and_overlap(real_data: Path) -> None:
    path = real_data / "classification/banking77_test.csv"
    with path.open(encoding="utf-8", newline="") as file:
        labels = [row["category"] for row in csv.DictReader(file)]
    counts = inspect_source(path).label_counts
    assert counts == {label: labels.count(label) for label in set(labels)}
    assert overlap(path, path).exact == len(labels)
