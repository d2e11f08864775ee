"""Turns of tenants by what each has had."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tunesmith.inference.batching.fair_queue import READ_WEIGHT, WRITTEN_WEIGHT, FairQueue


def served(queue: FairQueue[int], times: int, cost: dict[str, int]) -> list[str]:
    """Whose requests were taken, each charged what its tenant's requests cost."""
    found = []
    for _ in range(times):
        tenant, _ = queue.in_turn()[0]
        queue.take(tenant)
        queue.charge(tenant, written=cost[tenant])
        found.append(tenant)
    return found


def test_a_tenants_own_requests_stay_in_order() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(5):
        queue.put("a", number)
    assert [queue.take("a") for _ in range(5)] == list(range(5))
    assert len(queue) == 0
    assert queue.in_turn() == []


def test_tokens_written_weigh_more_than_tokens_read() -> None:
    queue: FairQueue[int] = FairQueue()
    for tenant in ("reader", "writer"):
        queue.put(tenant, 0)
    queue.charge("reader", read=10)
    queue.charge("writer", written=9)
    assert WRITTEN_WEIGHT > READ_WEIGHT
    assert [tenant for tenant, _ in queue.in_turn()] == ["reader", "writer"]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30), st.lists(st.integers(1, 50), min_size=3, max_size=3))
def test_as_long_as_all_wait_none_is_ahead_by_more_than_one_request(order: list[str], prices: list[int]) -> None:
    queue: FairQueue[int] = FairQueue()
    cost = dict(zip("abc", prices, strict=True))
    for tenant in "abc":
        for number in range(100):
            queue.put(tenant, number)
    had = dict.fromkeys("abc", 0)
    for tenant in served(queue, len(order), cost):
        had[tenant] += cost[tenant]
        assert max(had.values()) - min(had.values()) <= max(prices)


def test_whoever_comes_back_starts_where_the_least_served_of_those_who_wait_stands() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.put("a", 0)
    queue.charge("a", written=1000)
    for number in range(3):
        queue.put("b", number)
        queue.put("a", number)
    # b has had nothing, but did not wait; it goes first once and is then level.
    assert served(queue, 4, {"a": 1, "b": 1}).count("a") == 2


def test_whoever_comes_when_nobody_waits_starts_where_the_last_stood() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.put("a", 0)
    queue.take("a")
    queue.charge("a", written=1000)
    for number in range(10):
        queue.put("b", number)
    queue.put("a", 1)
    assert "a" in served(queue, 2, {"a": 1, "b": 1})


def test_unwanted_ones_go_wherever_they_stand() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(6):
        queue.put("ab"[number % 2], number)
    assert sorted(queue.drop_if(lambda number: number in (0, 3, 1, 5))) == [0, 1, 3, 5]
    assert queue.in_turn() == [("a", 2)]
    assert [queue.take("a"), queue.take("a")] == [2, 4]


def test_tenants_that_stay_away_are_forgotten_and_those_who_wait_are_not() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.put("waits", 0)
    queue.charge("waits", written=7)
    for number in range(10_000):
        queue.charge(f"tenant {number}", written=1)
    assert len(queue._served) < 5000  # what must not grow without end is not told by any method
    queue.put("comes", 0)
    # It starts where "waits" stands, whose count was kept.
    assert served(queue, 1, {"waits": 1, "comes": 1}) == ["waits"]


def test_shares_are_counted_by_tenant() -> None:
    queue: FairQueue[int] = FairQueue()
    assert queue.share_of("a") == 0
    for _ in range(4):
        queue.put("a", 0)
    assert (queue.share_of("a"), queue.share_of("b")) == (4, 0)
    queue.put("b", 0)
    assert (queue.share_of("a"), queue.share_of("b")) == (8, 2)
