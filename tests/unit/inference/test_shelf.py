"""What is loaded on first use, shared, and given up when others need the room."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tunesmith.inference.shelf import Shelf

PATIENCE_SECONDS = 30


class Place:
    """A shelf, and what was loaded and unloaded in which order."""

    def __init__(self, most: int) -> None:
        self.log: list[tuple[str, str]] = []
        self.broken: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.shelf: Shelf[list[str]] = Shelf(most, self._load, self._unload)

    def _load(self, name: str) -> list[str]:
        assert self.gate.wait(PATIENCE_SECONDS)
        self.log.append(("load", name))
        if name in self.broken:
            raise OSError(f"no {name}")
        return [name]

    def _unload(self, loaded: list[str]) -> None:
        self.log.append(("unload", loaded[0]))

    def use(self, name: str) -> list[str]:
        try:
            return self.shelf.take(name).result(PATIENCE_SECONDS)
        finally:
            self.shelf.give_back(name)


def test_the_least_recently_used_leaves_and_comes_back_when_asked() -> None:
    place = Place(2)
    for name in ("a", "b", "a", "c", "b"):
        assert place.use(name) == [name]
    wanted = ["load a", "load b", "load c", "unload b", "load b", "unload a"]
    assert [" ".join(entry) for entry in place.log] == wanted
    assert place.shelf.names() == ["c", "b"]


def test_what_is_in_use_stays_whatever_its_number() -> None:
    place = Place(1)
    held = [place.shelf.take(name).result(PATIENCE_SECONDS) for name in ("a", "b", "c")]
    assert held == [["a"], ["b"], ["c"]]
    assert place.shelf.names() == ["a", "b", "c"]
    place.shelf.give_back("b")
    assert place.log[-1] == ("unload", "b")
    place.shelf.give_back("a")
    assert place.shelf.names() == ["c"]


def test_several_users_load_it_once() -> None:
    place = Place(2)
    place.gate.clear()
    loading = [place.shelf.take("a") for _ in range(5)]
    place.gate.set()
    assert len({id(one.result(PATIENCE_SECONDS)) for one in loading}) == 1
    assert place.log == [("load", "a")]


def test_what_failed_is_tried_again() -> None:
    place = Place(2)
    place.broken.add("a")
    with pytest.raises(OSError, match="no a"):
        place.use("a")
    assert place.shelf.names() == []
    place.broken.clear()
    assert place.use("a") == ["a"]
    assert place.shelf.names() == ["a"]


def test_those_who_met_a_failure_do_not_give_back_what_others_use() -> None:
    place = Place(1)
    place.broken.add("a")
    failed = [place.shelf.take("a") for _ in range(2)]
    for one in failed:
        assert one.exception(PATIENCE_SECONDS) is not None
    place.broken.clear()
    place.shelf.take("a").result(PATIENCE_SECONDS)
    for _ in failed:
        place.shelf.give_back("a")
    place.use("b")
    # Still in use by the third, so the other one had to leave.
    assert place.shelf.names() == ["a"]


def test_many_threads_never_lose_what_they_use() -> None:
    place = Place(2)

    def work(seed: int) -> int:
        source = random.Random(seed)
        for _ in range(200):
            name = source.choice("abcd")
            assert place.use(name) == [name]
        return seed

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [0, 1, 2, 3]
    loads, unloads = (Counter(name for what, name in place.log if what == kind) for kind in ("load", "unload"))
    assert {name: loads[name] - unloads[name] for name in "abcd"} == {
        name: int(name in place.shelf.names()) for name in "abcd"
    }
    # Of each name, what was loaded left before it was loaded again.
    for name in "abcd":
        own = [what for what, whose in place.log if whose == name]
        assert own == ["load", "unload"] * (len(own) // 2) + ["load"] * (len(own) % 2)
