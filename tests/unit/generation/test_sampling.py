"""One token a row, each by its own decoding."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from tunesmith.generation import Decoding
from tunesmith.generation.sampling import choose, choose_each

DECODINGS = [
    Decoding(),
    Decoding(temperature=1.0),
    Decoding(temperature=0.3, top_p=0.5),
    Decoding(temperature=2.0, top_p=0.95),
    Decoding(temperature=1.0, top_p=1e-9),
]


def scores(rows: int, seed: int = 0, vocabulary: int = 50) -> torch.Tensor:
    return 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def sources(rows: int) -> list[random.Random]:
    return [random.Random(at) for at in range(rows)]


def test_a_rows_token_does_not_depend_on_its_neighbours() -> None:
    rows = scores(len(DECODINGS))
    together = choose_each(rows, DECODINGS, sources(len(DECODINGS)))
    alone = [choose(rows[at : at + 1], decoding, [random.Random(at)])[0] for at, decoding in enumerate(DECODINGS)]
    assert together == alone
    assert together[0] == int(rows[0].argmax())
    assert together[4] == int(rows[4].argmax())


def test_scores_are_left_as_they_are() -> None:
    rows = scores(len(DECODINGS))
    before = rows.clone()
    choose_each(rows, DECODINGS, sources(len(DECODINGS)))
    assert torch.equal(rows, before)


@pytest.mark.parametrize("decoding", DECODINGS[1:4])
def test_tokens_come_as_often_as_their_probability_says(decoding: Decoding) -> None:
    count = 20_000
    row = scores(1, seed=3, vocabulary=8)
    chosen = Counter(choose_each(row.expand(count, -1), [decoding] * count, sources(count)))
    chances, order = (row[0] / decoding.temperature).softmax(dim=0).double().sort(descending=True)
    kept = 1 + int((chances.cumsum(dim=0) < decoding.top_p).sum())
    chances = chances[:kept] / chances[:kept].sum()
    wanted = dict(zip(order[:kept].tolist(), chances.tolist(), strict=True))
    assert chosen.keys() <= wanted.keys()
    for token, chance in wanted.items():
        assert chosen[token] / count == pytest.approx(chance, abs=0.015)
