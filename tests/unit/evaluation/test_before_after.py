"""What a report says of measured systems: pieces of one long text are one row."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.data.types import TokenRow
from tunesmith.evaluation.before_after import Judge, report_systems, verdict
from tunesmith.evaluation.held_out import RowLosses
from tunesmith.evaluation.questions import HeldOut
from tunesmith.evaluation.systems import Measured

JUDGE = Judge(metrics=(), labels=(), seed=0)
DOCUMENTS, PIECES = 12, 5


def held_out(places: list[str]) -> HeldOut:
    ids_T = np.arange(4)
    return HeldOut([(TokenRow(ids_T, ids_T > 0, place),) for place in places], (), ())


def measured(name: str, losses: list[float]) -> Measured:
    return Measured(name, name, RowLosses(tuple(losses), (1,) * len(losses)), (), 0, 0.0, 0.0)


def test_pieces_of_a_text_are_drawn_together() -> None:
    # All pieces of a text have the same loss: drawn one by one they would feign five times the rows.
    by_text = np.random.default_rng(0).uniform(1, 3, DOCUMENTS)
    pieces = measured("base", np.repeat(by_text, PIECES).tolist())
    whole = measured("base", by_text.tolist())
    names = [f"a:{number}" for number in range(DOCUMENTS)]
    in_pieces, as_a_whole = (
        report_systems([one], held_out(places), JUDGE)[0]["loss"]
        for one, places in ((pieces, np.repeat(names, PIECES).tolist()), (whole, names))
    )
    assert in_pieces == pytest.approx(as_a_whole)
    alone = report_systems([pieces], held_out([str(at) for at in range(DOCUMENTS * PIECES)]), JUDGE)[0]["loss"]
    assert alone["high"] - alone["low"] < 0.7 * (in_pieces["high"] - in_pieces["low"])


def test_many_pieces_of_few_texts_decide_nothing() -> None:
    base, tuned = measured("base", [2.0] * 60), measured("tuned", [1.0] * 60)
    few = verdict(base, tuned, held_out([f"a:{at % 3}" for at in range(60)]), JUDGE)
    assert not few["decided"]
    assert "3 rows" in few["text"]
    assert verdict(base, tuned, held_out([f"a:{at}" for at in range(60)]), JUDGE)["decided"]
