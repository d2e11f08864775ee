"""Which held-out rows are measured where there is time for some."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from tunesmith.data.types import TokenRow
from tunesmith.formats.read import choose_rows
from tunesmith.pipeline.measure import choose_held_out


class Rows:
    """Rows that lie at the given places."""

    def __init__(self, places: list[str]) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def item(self, at: int) -> tuple[TokenRow, ...]:
        ids_T = np.full(3, at)
        return (TokenRow(ids_T, ids_T > 0, self.places[at]),)


def chosen(places: list[str], count: int, seed: int = 0) -> list[int]:
    prepared = SimpleNamespace(validation=SimpleNamespace(items=Rows(places)))
    resolved = SimpleNamespace(
        evaluation_rows=count, seed=seed, max_new_tokens=0, objective=SimpleNamespace(name="text")
    )
    held_out = choose_held_out(cast("Any", prepared), cast("Any", resolved))
    return [int(item[0].token_ids_T[0]) for item in held_out.items]


def test_rows_of_their_own_are_drawn_as_always() -> None:
    places = [f"a:{at}" for at in range(50)]
    for count in (1, 20, 50, 99):
        assert chosen(places, count, seed=3) == list(choose_rows(50, count, 3))


def test_every_text_is_measured_before_a_second_piece_of_any() -> None:
    places = ["a:1"] * 30 + ["a:2"] * 10 + ["a:3", "a:4"]
    for seed in range(5):
        first = chosen(places, 4, seed)
        assert {places[at] for at in first} == {"a:1", "a:2", "a:3", "a:4"}
        more = chosen(places, 9, seed)
        assert set(first) < set(more)
        assert sum(places[at] == "a:2" for at in more) in (3, 4)
        assert chosen(places, 99, seed) == list(range(42))
    assert len({tuple(chosen(places, 4, seed)) for seed in range(5)}) > 1
