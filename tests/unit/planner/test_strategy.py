"""``strategy: auto`` by the plan: the cheapest way to share that fits, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from recipe_cases import recipe

from tunesmith.catalog.entries import find_entry
from tunesmith.errors import RecipeError
from tunesmith.planner.changes import change_of
from tunesmith.planner.memory import predict_memory
from tunesmith.planner.shape import shape_of_entry
from tunesmith.planner.strategy import choosing
from tunesmith.recipe.refusal import Facts
from tunesmith.recipe.refusals import check
from tunesmith.recipe.resolve import resolve
from tunesmith.recipe.strategies import DEEPSPEED

FOUR = ("technique=full", "train.devices=4", "train.precision=float32", "train.tokens_per_step=16384")
PLAIN = (*FOUR, "train.activation_checkpointing=false")


@pytest.fixture
def shape():
    """Three billion weights: whole with gradients and moments 46 GiB."""
    entry = find_entry("smollm3-3b")
    assert entry is not None
    return shape_of_entry(entry)


@pytest.fixture
def chosen(shape, data, gpu):
    """The values that the plan chooses on GPUs of some gigabytes."""

    def make(gigabytes, *settings, change_with=(), missing=(), hardware=gpu):
        place = hardware.model_copy(update={"device_memory_bytes": int(gigabytes * 10**9)})
        wanted, facts = recipe(*settings), Facts(data, shape.facts(has_chat_template=True), place.host_facts())
        check(wanted, facts)
        by_thumb = change_of(wanted, resolve(wanted, data, facts.model, facts.host), facts)
        return choosing(wanted, by_thumb, shape, data, place, missing=missing)(change_with)

    return make


def test_less_memory_takes_what_sends_more(chosen):
    names = [chosen(size, *PLAIN).strategy for size in (80, 60, 38, 25)]
    assert names == ["ddp", "zero1", "zero2", "fsdp"]


def test_what_is_chosen_fits_and_what_is_cheaper_does_not(chosen, shape, data, gpu):
    place = gpu.model_copy(update={"device_memory_bytes": 38 * 10**9})
    found = chosen(38, *PLAIN)
    assert predict_memory(shape, found, data, place).headroom(place) >= 0
    for name in ("ddp", "zero1"):
        assert predict_memory(shape, replace(found, strategy=name), data, place).headroom(place) < 0


def test_the_reason_names_what_was_tried_and_what_is_there(chosen):
    reasons = chosen(38, *PLAIN).reasons
    assert reasons["strategy"].startswith("auto: the first that fits by the plan: ddp ")
    assert all(word in reasons["strategy"] for word in ("zero1", "zero2", "35.4"))
    # What was only tried is no wish of the recipe.
    assert reasons["objective"].startswith("auto")


def test_a_library_that_is_not_there_is_passed_over(chosen):
    assert chosen(60, *PLAIN, missing=DEEPSPEED).strategy == "fsdp"


def test_activations_are_computed_again_where_that_is_open_and_nothing_else_helps(chosen):
    tight = 18
    assert "nothing fits" in chosen(tight, *PLAIN).reasons["strategy"]
    found = chosen(tight, *FOUR)
    assert found.activation_checkpointing is True
    assert found.strategy in ("fsdp", "zero3")
    assert "activations again" in found.reasons["strategy"]


ONE = ("technique=dora", "train.precision=bfloat16", "train.tokens_per_step=16384")


@pytest.mark.parametrize("shared", [(), ("train.devices=4", "strategy=ddp")], ids=["one", "shared in a given way"])
def test_without_a_strategy_to_choose_activations_are_computed_again_where_that_is_needed(chosen, shared):
    roomy, tight = (chosen(size, *ONE, *shared) for size in (40, 24))
    assert roomy.activation_checkpointing is False
    assert tight.activation_checkpointing is True
    reason = tight.reasons["train.activation_checkpointing"]
    assert reason.startswith("auto: by the plan it would not fit otherwise: ")
    assert "25.6 GiB; a device has 22.4, of which most can be used" in reason
    assert tight.reasons["objective"].startswith("auto")
    assert chosen(24, *ONE, *shared, "train.activation_checkpointing=false").activation_checkpointing is False
    given = chosen(24, *ONE, *shared, change_with=("train.activation_checkpointing=false",))
    assert given.activation_checkpointing is False


def test_a_strategy_that_was_asked_for_stays(chosen):
    assert chosen(25, *PLAIN, "strategy=ddp").strategy == "ddp"
    assert chosen(25, *PLAIN, change_with=("strategy=zero2",)).strategy == "zero2"


def test_another_technique_is_shared_in_its_own_way(chosen):
    assert chosen(25, *PLAIN, change_with=("technique=lora",)).strategy == "ddp"


def test_nothing_is_offloaded_that_the_recipe_does_not_offload(chosen):
    assert not chosen(10, *PLAIN).offload
    found = chosen(80, *PLAIN, "train.offload=true")
    assert (found.strategy, found.offload) == ("zero1", True)


def test_offload_is_refused_where_no_strategy_can_cut(chosen):
    with pytest.raises(RecipeError) as caught:
        chosen(80, *PLAIN, "train.offload=true", "train.optimizer=adafactor")
    assert [one.code for one in caught.value.problems] == ["recipe.offload_strategy"]


def test_what_stands_against_cutting_is_respected(chosen):
    assert chosen(25, *PLAIN, "train.optimizer=adafactor").strategy == "ddp"
    assert chosen(60, *PLAIN, "train.on_non_finite=skip").strategy == "fsdp"
