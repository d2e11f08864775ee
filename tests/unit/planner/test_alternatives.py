"""What else one could do, and what would make a plan fit."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest

from tunesmith.catalog.entries import find_entry
from tunesmith.planner.alternatives import alternatives, cheapest_fits
from tunesmith.planner.memory import predict_memory
from tunesmith.planner.plan import make_plan
from tunesmith.planner.shape import shape_of_entry


def settings_of(found):
    return {setting for one in found for setting in one.settings}


def with_host(hardware, gigabytes):
    return hardware.model_copy(update={"host_memory_bytes": int(gigabytes * 10**9)})


def test_techniques_and_checkpointing_stand_side_by_side(starter, data, processor, changing):
    found = alternatives(starter, data, processor, changing("technique=lora", hardware=processor))
    assert found[0].settings == ()
    others = {"technique=qlora", "technique=dora", "technique=full", "train.activation_checkpointing=true"}
    assert settings_of(found) == others
    by_setting = {one.settings: one for one in found}
    lora, full = by_setting[()], by_setting["technique=full",]
    assert full.peak_bytes > lora.peak_bytes
    assert full.step_seconds > lora.step_seconds
    again = by_setting["train.activation_checkpointing=true",]
    assert again.peak_bytes < lora.peak_bytes
    assert again.step_seconds > lora.step_seconds


PRICE = {"price_per_hour": 3.0, "currency": "EUR", "price_date": datetime.date(2026, 11, 1), "price_source": "an offer"}


def test_every_way_says_what_a_plan_of_it_says(starter, data, processor, settled, changing):
    """Parts, host, disk, price, and the largest pack and the longest row of each."""
    priced = processor.model_copy(update=PRICE)
    found = {one.settings: one for one in alternatives(starter, data, priced, changing(hardware=priced))}
    for settings in ((), ("technique=full",), ("train.activation_checkpointing=true",)):
        plan, one = make_plan(starter, settled(*settings, hardware=priced), data, priced), found[settings]
        assert one.parts == plan.memory.parts
        assert (one.host_bytes, one.checkpoint_bytes) == (plan.memory.host, plan.memory.checkpoints)
        assert (one.price, one.currency) == (plan.time.price, "EUR")
        assert (one.largest_micro_batch, one.longest_context) == (plan.largest_micro_batch, plan.longest_context)
    assert found["technique=full",].parts["optimizer"] > found[()].parts["optimizer"]
    assert found["train.activation_checkpointing=true",].longest_context >= found[()].longest_context


def test_without_prices_no_way_has_one(starter, data, processor, changing):
    found = alternatives(starter, data, processor, changing(hardware=processor))
    assert {(one.price, one.currency) for one in found} == {(None, None)}


def test_several_devices_can_be_shared_in_other_ways(starter, data, gpu, changing):
    change = changing("technique=lora", "train.devices=8", "strategy=ddp", hardware=gpu)
    assert settings_of(alternatives(starter, data, gpu, change)) >= {
        "strategy=zero1",
        "strategy=zero2",
        "strategy=zero3",
        "strategy=fsdp",
    }


@pytest.mark.parametrize(
    ("settings", "left_out"),
    [
        (("technique=ia3", "strategy=ddp", "train.devices=8"), {"strategy=zero3", "strategy=fsdp"}),
        (("train.optimizer=lion_8bit", "strategy=ddp", "train.devices=8"), {"strategy=zero2", "strategy=fsdp"}),
        (("objective=dpo",), {"technique=full"}),
    ],
)
def test_what_does_not_go_together_is_left_out(starter, data, gpu, changing, settings, left_out):
    found = settings_of(alternatives(starter, data, gpu, changing(*settings, hardware=gpu)))
    assert not found & left_out


def test_a_low_rank_technique_keeps_the_rank_of_the_one_before(starter, data, processor, changing):
    low, high = (
        {one.settings: one for one in alternatives(starter, data, processor, change)}["technique=qlora",].peak_bytes
        for change in (changing(f"technique.rank={rank}", hardware=processor) for rank in (4, 256))
    )
    assert high > low


def test_nothing_has_to_change_where_a_plan_fits(starter, data, processor, changing):
    assert cheapest_fits(starter, data, processor, changing(hardware=processor)) == []


@pytest.mark.parametrize("more", [(), ("train.budget=10m",)], ids=["open epochs", "budget"])
def test_three_changes_that_fit_are_offered_the_fastest_for_equal_work_first(starter, data, processor, changing, more):
    hardware = with_host(processor, 4.2)
    change = changing("technique=full", "evaluate.max_new_tokens=8", *more, hardware=processor)
    found = cheapest_fits(starter, data, hardware, change)
    assert 1 <= len(found) <= 3
    assert all(one.fits for one in found)
    seconds = [one.equal_seconds for one in found]
    assert seconds == sorted(seconds)
    assert ("technique=lora",) in {one.settings for one in found}
    assert len({one.settings for one in found}) == len(found)


def test_other_techniques_can_be_left_out(starter, data, processor, changing):
    change = changing("technique=full", "evaluate.max_new_tokens=8", hardware=processor)
    found = cheapest_fits(starter, data, with_host(processor, 4.2), change, most=99, techniques=False)
    assert not any(setting.startswith("technique=") for setting in settings_of(found))


def test_no_change_holds_what_it_could_do_without(starter, data, processor, changing):
    hardware = with_host(processor, 4.2)
    change = changing("technique=full", "evaluate.max_new_tokens=8", hardware=processor)
    found = [set(one.settings) for one in cheapest_fits(starter, data, hardware, change, most=99)]
    assert all(not (one < other) for one in found for other in found)


def test_of_smaller_packs_the_largest_that_fits_is_offered(starter, data, processor, changing):
    settings = (
        "train.tokens_per_micro_batch=8192",
        "train.tokens_per_step=8192",
        "evaluate.max_new_tokens=8",
    )
    short = replace(data, longest_row=220)
    hardware = with_host(processor, 5.2)
    change = changing(*settings, hardware=processor, data=short)
    offered = settings_of(cheapest_fits(starter, short, hardware, change, most=99))
    packs = {setting for setting in offered if setting.startswith("train.tokens_per_micro_batch=")}
    assert packs == {"train.tokens_per_micro_batch=2048"}
    bigger = replace(change(()), tokens_per_micro_batch=4096)
    assert predict_memory(starter, bigger, short, hardware).headroom(hardware) < 0


def test_nothing_is_offered_where_nothing_helps(starter, data, processor, changing):
    hardware = with_host(processor, 0.5)
    assert cheapest_fits(starter, data, hardware, changing(hardware=processor)) == []


def test_several_gpus_can_cut_and_offload(data, gpu, changing):
    """A model of three billion weights, all of which train, on four cards of 24 GB."""
    entry = find_entry("smollm3-3b")
    assert entry is not None
    shape = shape_of_entry(entry)
    card = gpu.model_copy(update={"device_memory_bytes": 24 * 10**9})
    change = changing("technique=full", "train.devices=4", "strategy=ddp", hardware=card, shape=shape)
    every = cheapest_fits(shape, data, card, change, most=99)
    assert any("strategy=fsdp" in one.settings and not set(one.settings) & {"technique=lora"} for one in every)
    assert settings_of(every) & {"train.offload=true"}


def test_nothing_is_offloaded_to_a_host_that_has_no_room_for_it(data, gpu, changing):
    """Three billion weights that train: offloaded they are 46 GiB of the host in all."""
    entry = find_entry("smollm3-3b")
    assert entry is not None
    shape = shape_of_entry(entry)
    offered = {}
    for host in (200, 40):
        card = gpu.model_copy(update={"device_memory_bytes": 24 * 10**9, "host_memory_bytes": host * 10**9})
        change = changing("technique=full", "train.devices=4", "strategy=ddp", hardware=card, shape=shape)
        every = cheapest_fits(shape, data, card, change, most=99)
        offered[host] = [one for one in every if not any(word.startswith("technique") for word in one.settings)]
    assert any("train.offload=true" in one.settings for one in offered[200])
    assert offered[40]
    assert not any("train.offload=true" in one.settings for one in offered[40])


def test_offload_needs_a_strategy_that_cuts_and_a_gpu(processor, gpu, changing):
    change = changing("train.devices=2", "strategy=ddp", hardware=gpu)
    assert change(("train.offload=true",)) is None
    assert change(("strategy=zero2", "train.offload=true")) is not None
    processors = changing("train.devices=2", "strategy=ddp", hardware=processor)
    assert processors(("strategy=zero2", "train.offload=true")) is None


def test_weights_are_cut_under_plain_techniques_alone(gpu, changing):
    change = changing("train.devices=2", "strategy=ddp", hardware=gpu)
    assert change(("strategy=fsdp", "technique=lora")) is not None
    assert change(("strategy=fsdp", "technique=qlora")) is not None
    assert change(("strategy=fsdp", "technique=ia3")) is None
    pissa = changing("train.devices=2", "strategy=ddp", "technique.initialization=pissa", hardware=gpu)
    assert pissa(("strategy=fsdp",)) is None


def test_another_technique_has_its_own_rate_and_steps(processor, changing):
    change = changing("technique=lora", hardware=processor)
    assert change(("technique=full",)).learning_rate == pytest.approx(change(()).learning_rate / 20)


def test_a_rate_that_was_asked_for_stays(processor, changing):
    change = changing("technique=lora", "train.learning_rate=0.0003", hardware=processor)
    assert change(("technique=full",)).learning_rate == 0.0003


def test_offload_ends_with_the_strategy_that_has_it(gpu, starter, data, changing):
    change = changing("train.devices=4", "strategy=fsdp", "train.offload=true", hardware=gpu)
    found = {one.settings for one in alternatives(starter, data, gpu, change)}
    assert ("strategy=ddp", "train.offload=false") in found
    assert ("strategy=zero2",) in found
    assert ("train.offload=false",) in found
