"""What else one could do, and what would make a plan fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunesmith.catalog.entries import find_entry
from tunesmith.planner.alternatives import alternatives, cheapest_fits, is_possible
from tunesmith.planner.memory import predict_memory
from tunesmith.planner.shape import shape_of_entry
from tunesmith.recipe.techniques import Lora, Qlora


def settings_of(found):
    return {setting for one in found for setting in one.settings}


def with_host(hardware, gigabytes):
    return hardware.model_copy(update={"host_memory_bytes": int(gigabytes * 10**9)})


def test_techniques_and_checkpointing_stand_side_by_side(starter, data, processor, settled):
    found = alternatives(starter, settled("technique=lora", hardware=processor), data, processor)
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


def test_several_devices_can_be_shared_in_other_ways(starter, data, gpu, settled):
    resolved = settled("technique=lora", "train.devices=8", "strategy=ddp", hardware=gpu)
    assert settings_of(alternatives(starter, resolved, data, gpu)) >= {
        "strategy=zero2",
        "strategy=zero3",
        "strategy=fsdp",
    }


@pytest.mark.parametrize(
    ("settings", "left_out"),
    [
        (("technique=qlora", "strategy=ddp", "train.devices=8"), {"strategy=zero3", "strategy=fsdp"}),
        (("train.optimizer=lion_8bit", "strategy=ddp", "train.devices=8"), {"strategy=zero2", "strategy=fsdp"}),
        (("objective=dpo",), {"technique=full"}),
    ],
)
def test_what_does_not_go_together_is_left_out(starter, data, gpu, settled, settings, left_out):
    found = settings_of(alternatives(starter, settled(*settings, hardware=gpu), data, gpu))
    assert not found & left_out


def test_a_low_rank_technique_keeps_the_rank_of_the_one_before(starter, data, processor, settled):
    low, high = (
        {one.settings: one for one in alternatives(starter, resolved, data, processor)}["technique=qlora",].peak_bytes
        for resolved in (settled(f"technique.rank={rank}", hardware=processor) for rank in (4, 256))
    )
    assert high > low


def test_nothing_has_to_change_where_a_plan_fits(starter, data, processor, settled):
    assert cheapest_fits(starter, settled(hardware=processor), data, processor) == []


def test_three_changes_that_fit_are_offered_the_fastest_first(starter, data, processor, settled):
    hardware = with_host(processor, 4.2)
    resolved = settled("technique=full", "evaluate.max_new_tokens=8", hardware=processor)
    found = cheapest_fits(starter, resolved, data, hardware)
    assert 1 <= len(found) <= 3
    assert all(one.fits for one in found)
    seconds = [one.total_seconds for one in found]
    assert seconds == sorted(seconds)
    assert ("technique=lora",) in {one.settings for one in found}
    assert len({one.settings for one in found}) == len(found)


def test_no_change_holds_what_it_could_do_without(starter, data, processor, settled):
    hardware = with_host(processor, 4.2)
    resolved = settled("technique=full", "evaluate.max_new_tokens=8", hardware=processor)
    found = [set(one.settings) for one in cheapest_fits(starter, resolved, data, hardware, most=99)]
    assert all(not (one < other) for one in found for other in found)


def test_of_smaller_packs_the_largest_that_fits_is_offered(starter, data, processor, settled):
    resolved = settled(
        "train.tokens_per_micro_batch=8192",
        "train.tokens_per_step=8192",
        "evaluate.max_new_tokens=8",
        hardware=processor,
    )
    short = replace(data, longest_row=220)
    hardware = with_host(processor, 5.2)
    offered = settings_of(cheapest_fits(starter, resolved, short, hardware, most=99))
    packs = {setting for setting in offered if setting.startswith("train.tokens_per_micro_batch=")}
    assert packs == {"train.tokens_per_micro_batch=2048"}
    bigger = replace(resolved, tokens_per_micro_batch=4096)
    assert predict_memory(starter, bigger, short, hardware).headroom(hardware) < 0


def test_nothing_is_offered_where_nothing_helps(starter, data, processor, settled):
    hardware = with_host(processor, 0.5)
    assert cheapest_fits(starter, settled(hardware=processor), data, hardware) == []


def test_several_gpus_can_cut_and_offload(data, gpu, settled):
    """A model of three billion weights, all of which train, on four cards of 24 GB."""
    entry = find_entry("smollm3-3b")
    assert entry is not None
    shape = shape_of_entry(entry)
    card = gpu.model_copy(update={"device_memory_bytes": 24 * 10**9})
    resolved = settled("technique=full", "train.devices=4", "strategy=ddp", hardware=card, shape=shape)
    every = cheapest_fits(shape, resolved, data, card, most=99)
    assert any("strategy=fsdp" in one.settings and not set(one.settings) & {"technique=lora"} for one in every)
    assert settings_of(every) & {"train.offload=true"}


def test_offload_needs_a_strategy_that_cuts_and_a_gpu(starter, processor, gpu, settled):
    plain = settled("train.devices=2", "strategy=ddp", hardware=gpu)
    assert not is_possible(starter, replace(plain, offload=True), gpu)
    cut = replace(plain, strategy="zero2", offload=True)
    assert is_possible(starter, cut, gpu)
    assert not is_possible(starter, cut, processor)


def test_weights_are_cut_under_plain_techniques_alone(starter, gpu, settled):
    cut = replace(settled("train.devices=2", "strategy=ddp", hardware=gpu), strategy="fsdp")
    assert is_possible(starter, replace(cut, technique=Lora()), gpu)
    assert not is_possible(starter, replace(cut, technique=Qlora()), gpu)
    assert not is_possible(starter, replace(cut, technique=Lora(initialization="pissa")), gpu)
