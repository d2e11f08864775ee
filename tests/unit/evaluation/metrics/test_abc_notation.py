"""ABC notation: what a parser of it must find right and wrong, on small tunes, on real ones and on anything."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tunesmith.evaluation.metrics import score
from tunesmith.evaluation.metrics.abc_notation import parse_abc
from tunesmith.formats.inspect import inspect_source
from tunesmith.formats.read import read_examples
from tunesmith.tasks import prepare_task

HEAD = "X:1\nT:A tune\nM:4/4\nL:1/8\nK:D\n"


@pytest.mark.parametrize(
    ("bar", "eighths"),
    [
        ("DEFG ABcd", 8),
        ("D2 E/2F/ G4", 7),
        ("D3/2 E/", 2),
        ("(3DEF G2", 4),
        ("(3:2:2DE F", Fraction(7, 3)),
        ("D>E F<G", 4),
        ("D>>E", 2),
        ("[DFA]2 [D2F2]", 4),
        ("{g}D z2 x ^F, _b'=c", 7),
        ('"Am"D !trill!E .F ~G D-D', 6),
        ("D // E", None),
        ("D0", None),
        ("D Q", None),
        ("[DF", None),
        ("> D", None),
    ],
)
def test_lengths(bar: str, eighths: int | Fraction | None) -> None:
    tune = parse_abc(HEAD + bar + "|")
    assert tune.valid == (eighths is not None), tune.problems
    if eighths is not None:
        assert [length for length, _, _ in tune.bars] == [Fraction(eighths) / 8]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there is no key (K:)"),
        ("Here is a tune for you.", "a line before the key is no field"),
        ("T:A\nK:D\nDEF|", "the first field is not X:"),
        ("X:1\nM:4/0\nK:D\nDEF|", "the meter (M:) cannot be read"),
        ("X:1\nK:D\n", "there are no notes"),
        ("X:1\nK:Z\nD|", "the key is none that there is"),
        (HEAD + "D" * 60_000, "longer than 50,000 characters"),
    ],
)
def test_faults_are_named(text: str, problem: str) -> None:
    assert problem in parse_abc(text).problems


def test_short_bars_are_right_only_at_the_ends_of_parts() -> None:
    right = parse_abc(HEAD + "A2|DEFG ABcd|DEFG A2:|\nA2|DEFG ABcd|[1 DEFG A2:|[2 DEFG ABcd|]")
    assert right.valid
    assert right.fitting_bars == len(right.bars) == 7
    wrong = parse_abc(HEAD + "DEFG ABcd|DEFG|DEFG ABcd ef|DEFG ABcd|")
    assert (wrong.fitting_bars, len(wrong.bars)) == (2, 4)


def test_the_meter_may_change_and_may_be_free() -> None:
    tune = parse_abc(HEAD + "DEFG ABcd|[M:3/4]DEFG AB|\nM:none\nD|DEFG ABcd efga|")
    assert tune.fitting_bars == len(tune.bars) == 4


@given(some.text(max_size=200) | some.text(alphabet="XKMTL:1/8\nDEFGab|[](){}<>\"!^_,'23~-& ", max_size=200))
def test_any_text_is_read(text: str) -> None:
    for written in (text, HEAD + text):
        tune = parse_abc(written)
        assert 0 <= tune.fitting_bars <= len(tune.bars)


@given(some.lists(some.lists(some.sampled_from("DEFGABcd"), min_size=8, max_size=8), min_size=1, max_size=12))
def test_tunes_made_of_whole_bars_are_right(bars: list[list[str]]) -> None:
    tune = parse_abc(HEAD + "|".join("".join(bar) for bar in bars) + "|]")
    assert tune.valid
    assert tune.fitting_bars == len(tune.bars) == len(bars)


def test_real_tunes_are_right_and_their_bodies_are_the_answers(real_data: Path) -> None:
    inspection = inspect_source(real_data / "music/irish_abc.jsonl", columns={"text": "abc"})
    examples = [example for _, example in read_examples(inspection)]
    task = prepare_task("creative", inspection, examples)
    rows = [row for example in examples if (row := task.evaluation(example)) is not None]
    assert task.metrics == ("abc_bars", "abc_valid", "distinct_1", "distinct_2", "distinct_3")
    assert all(row.messages[1].content.splitlines()[-1].startswith("K:") for row in rows)
    found = score(task.metrics, [row.shown_reference for row in rows], [row.reference for row in rows])
    assert found["abc_valid"]["value"] > 0.99
    assert found["abc_bars"]["value"] > 0.98
