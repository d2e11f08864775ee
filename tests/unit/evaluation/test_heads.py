"""Heads measured: scores in the order of the rows in every layout, answers in words, and how losses are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import tiny_encoder_folder

from tunesmith.catalog.heads import Head
from tunesmith.data.labelled import make_reader
from tunesmith.data.types import TokenRow
from tunesmith.errors import Stopped
from tunesmith.evaluation.heads import head_ruler, label_scores
from tunesmith.evaluation.held_out import Layout
from tunesmith.evaluation.questions import Asked
from tunesmith.formats.examples import LabelledText
from tunesmith.models.attention import ATTENTION
from tunesmith.models.load import LoadPlan, load_model, load_tokenizer
from tunesmith.objectives.label_loss import head_losses

LABELS = ("down", "left", "up")
LAYOUTS: tuple[tuple[Literal["packed", "padded"], int], ...] = (("packed", 500), ("packed", 20), ("padded", 500))
EXAMPLES = [LabelledText(f"goes {'far ' * (number * 7 % 9)}away", LABELS[number % 3]) for number in range(9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder_folder(tmp_path_factory.mktemp("heads") / "bert")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_model(LoadPlan(folder, attention=ATTENTION, head=Head("sequence_classification", LABELS, 1)))


@pytest.fixture(scope="module")
def reader(folder: Path) -> Any:
    return make_reader("sequence_classification", LABELS, load_tokenizer(folder), "encoder")


@pytest.fixture(scope="module")
def rows(reader: Any) -> list[TokenRow]:
    encoded = [reader.encode(example) for example in EXAMPLES]
    return [
        TokenRow(row.token_ids_T, row.marked_T, f"rows:{number}", row.label_ids_T) for number, row in enumerate(encoded)
    ]


def layout(name: Literal["packed", "padded"], tokens: int) -> Layout:
    return Layout(tokens, name, share_prefix=False)


def one_by_one(model: Any, rows: list[TokenRow]) -> list[NDArray[np.float32]]:
    """The scores of each row asked alone, where no order could be lost."""
    quiet: Any = {"on_progress": lambda _: None, "should_stop": lambda: False}
    return [label_scores(model, [row], layout("padded", 1), **quiet)[0] for row in rows]


@pytest.mark.parametrize(("name", "tokens"), LAYOUTS)
def test_scores_come_in_the_order_of_the_rows(
    model: Any, rows: list[TokenRow], name: Literal["packed", "padded"], tokens: int
) -> None:
    told: list[int] = []
    found = label_scores(model, rows, layout(name, tokens), on_progress=told.append, should_stop=lambda: False)
    assert told == [len(rows)]
    for scores_L_C, alone_L_C in zip(found, one_by_one(model, rows), strict=True):
        assert scores_L_C.shape == (1, len(LABELS))
        np.testing.assert_allclose(scores_L_C, alone_L_C, atol=1e-5)


def test_a_ruler_says_the_likeliest_label_of_each_row(model: Any, reader: Any, rows: list[TokenRow]) -> None:
    ruler = head_ruler(
        reader,
        layout("packed", 200),
        head_losses,
        a_row_counts_once=False,
        on_progress=lambda *_: None,
        should_stop=lambda: False,
    )
    asked = Asked([], [(row,) for row in rows], rows, EXAMPLES)
    answers = ruler.answers(model, asked, lambda _: None, lambda: False)
    assert list(answers.texts) == [LABELS[int(one[0].argmax())] for one in one_by_one(model, rows)]
    assert len(set(answers.texts)) > 1
    measured = ruler.losses(model, asked.items, lambda _: None, lambda: False)
    right = [text == example.label for text, example in zip(answers.texts, EXAMPLES, strict=True)]
    assert measured.hits_B == tuple(map(int, right))
    assert measured.accuracy == pytest.approx(sum(right) / len(right))
    with pytest.raises(Stopped):
        ruler.answers(model, asked, lambda _: None, lambda: True)
