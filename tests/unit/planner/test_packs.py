"""How a step of mean rows is laid out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunesmith.planner.packs import plan_packs
from tunesmith.planner.shape import shape_of_config


@pytest.fixture
def packs_of(starter, data, processor, settled):
    def make(*settings, data=data, shape=starter):
        return plan_packs(shape, settled(*settings, hardware=processor, data=data, shape=shape), data)

    return make


def test_a_step_fills_packs(packs_of):
    packs = packs_of("train.tokens_per_micro_batch=1024")
    assert (packs.largest, packs.count, packs.prefix) == (1024, 2, 0)
    assert packs.step_tokens == pytest.approx(2048)
    assert packs.labels == pytest.approx(1024 * 119 / 217, abs=1)


def test_the_longest_row_and_a_small_step_bound_the_largest_pack(packs_of, data):
    assert packs_of("train.tokens_per_micro_batch=100").largest == data.longest_row
    assert packs_of("train.tokens_per_micro_batch=8192").largest == 2048


def test_padded_rows_go_one_at_a_time(packs_of, data):
    packs = packs_of("train.layout=padded")
    assert (packs.largest, packs.rows) == (data.longest_row, 1.0)
    assert packs.count == 10


def test_families_that_are_not_packed_go_one_at_a_time(packs_of, data, tiny_config):
    shape = shape_of_config({**tiny_config, "model_type": "roberta"}, "mine")
    packs = packs_of("objective=sequence_classification", shape=shape, data=replace(data, labels=3))
    assert packs.largest == data.longest_row


def test_a_shared_beginning_is_computed_once_a_pack(packs_of, data):
    """Ten rows of 617 tokens with 600 in common: a pack has room for all of them."""
    alike = replace(data, tokens=7000 * 617, longest_row=640, shared_prefix_tokens=600, trained_tokens=7000 * 10)
    packs = packs_of("train.tokens_per_step=6170", "train.tokens_per_micro_batch=2048", data=alike)
    assert (packs.count, packs.prefix) == (1, 600)
    assert packs.step_tokens == pytest.approx(600 + 10 * 17)
    assert packs.largest == 770
    assert packs.labels == 100
    alone = packs_of("train.tokens_per_step=6170", "train.share_prefix=false", data=alike)
    assert alone.step_tokens == pytest.approx(6170)


def test_rows_longer_than_a_pack_share_their_beginning_in_a_larger_one(packs_of, data):
    alike = replace(data, tokens=7000 * 2560, longest_row=2560, shared_prefix_tokens=2500)
    packs = packs_of(f"train.tokens_per_step={16 * 2560}", "train.tokens_per_micro_batch=2048", data=alike)
    assert (packs.count, packs.prefix, packs.largest) == (1, 2500, 2500 + 16 * 60)
    assert packs.step_tokens == pytest.approx(2500 + 16 * 60)
    full = packs_of(f"train.tokens_per_step={64 * 2560}", "train.tokens_per_micro_batch=2048", data=alike)
    assert (full.count, full.largest) == (4, 2500 + 17 * 60)


def test_a_beginning_that_saves_next_to_nothing_is_not_shared(packs_of, data):
    assert packs_of(data=replace(data, shared_prefix_tokens=5)).prefix == 0


def test_ranks_share_a_step(packs_of):
    packs = packs_of("train.devices=4", "strategy=ddp", "train.tokens_per_micro_batch=1024")
    assert packs.count == 4
    assert packs.largest == pytest.approx(2048 / 4 + 217, abs=1)
