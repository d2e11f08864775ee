"""Time: a step by hand, what was measured, and what must hold whatever the shares are."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest

from tunesmith.planner.time import predict_time
from tunesmith.recipe.facts import DataFacts

# Four rows of 50 tokens, of which 20 train.
FOUR_ROWS = DataFacts("chat", "messages", rows=4, validation_rows=0, tokens=200, trained_tokens=80, longest_row=50)


@pytest.fixture
def time_of(starter, data, processor, settled):
    def make(*settings, hardware=processor, shape=starter, data=data):
        resolved = settled(*settings, hardware=hardware, shape=shape, data=data)
        return predict_time(shape, resolved, data, hardware)

    return make


def test_a_tiny_step_by_hand(tiny, time_of, processor):
    """Operations of the matrices three times, of attention three times, of the scores of 80 labels three times."""
    plan = time_of("technique=full", "train.tokens_per_step=200", shape=tiny, data=FOUR_ROWS)
    matrices = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64)
    attention = 4 * 32 * 50 / 2
    scores = 2 * 400 * 32 * 80 / 200
    assert plan.operations_per_token == pytest.approx(3 * 2 * (matrices + attention) + 3 * scores)
    moved = 28 * tiny.parameters / 20e9
    assert plan.step_seconds == pytest.approx(200 * plan.operations_per_token / (200e9 * 0.6) + moved)


def test_frozen_weights_get_no_gradient(tiny, time_of):
    full, lora = (time_of(f"technique={name}", shape=tiny, data=FOUR_ROWS) for name in ("full", "lora"))
    matrices, scores = 2 * tiny.layer_matrices, 2 * 400 * 32 * 80 / 200
    adapters = 6 * 2 * 16 * sum(one.inputs + one.outputs for one in tiny.matrices)
    assert full.operations_per_token - lora.operations_per_token == pytest.approx(2 * matrices + scores - adapters)


@pytest.mark.parametrize(("products", "settings", "tokens_per_second"), [(299e9, (), 356), (150e9, (), 205)])
def test_what_was_measured_on_a_processor(time_of, processor, products, settings, tokens_per_second):
    """LoRA on the starter model on two cores and on one; docs/performance.md."""
    hardware = processor.model_copy(update={"matmul_flops_per_second": {"float32": products}})
    plan = time_of("technique=lora", *settings, hardware=hardware)
    assert 2048 / plan.step_seconds == pytest.approx(tokens_per_second, rel=0.25)


def test_layers_that_compute_again_take_another_forward_pass(time_of):
    none, half, all_of_them = (
        time_of(f"train.activation_checkpointing={wish}").operations_per_token for wish in ("false", "15", "true")
    )
    assert all_of_them - none == pytest.approx(2 * (half - none))
    assert all_of_them / none == pytest.approx(1.45, abs=0.1)


def test_a_reference_is_a_forward_pass_more_and_drift_two_more(time_of, data):
    pairs = replace(data, task="preference", answer_tokens=0)
    sft, dpo, kto = (time_of(f"objective={name}", data=pairs).operations_per_token for name in ("sft", "dpo", "kto"))
    assert kto - sft == pytest.approx(3 * (dpo - sft))


def test_longer_rows_take_more_attention(time_of, data):
    longer = replace(data, tokens=data.tokens * 4, trained_tokens=data.trained_tokens * 4, longest_row=2080)
    assert time_of(data=longer).operations_per_token > time_of().operations_per_token


def test_a_shared_beginning_saves_tokens(time_of, data):
    alike = replace(data, tokens=7000 * 617, longest_row=640, shared_prefix_tokens=600, trained_tokens=7000 * 10)
    settings = ("train.tokens_per_step=6170", "train.tokens_per_micro_batch=2048", "train.epochs=1")
    shared = time_of(*settings, data=alike)
    alone = time_of(*settings, "train.share_prefix=false", data=alike)
    assert shared.tokens == alone.tokens
    assert shared.computed_tokens < alone.computed_tokens / 5
    assert shared.step_seconds < alone.step_seconds / 4


def test_steps_are_those_of_the_epochs(time_of, data):
    plan = time_of("train.epochs=2")
    assert plan.steps == 2 * round(data.tokens / 2048)
    assert plan.tokens == pytest.approx(2 * data.tokens, rel=0.01)
    assert not plan.within_budget


def test_a_budget_ends_training_in_time(time_of):
    plan = time_of("train.epochs=3", "train.budget=30m")
    assert plan.within_budget
    assert plan.total_seconds <= 1800
    assert plan.total_seconds > 1800 - 2 * plan.step_seconds
    assert time_of("train.epochs=3", "train.budget=1s").steps == 1


def test_measuring_takes_time_for_each_system(time_of):
    nothing_shown = time_of("evaluate.rows=50", "evaluate.few_shot=0").evaluation_seconds
    shown = time_of("evaluate.rows=50", "evaluate.few_shot=3").evaluation_seconds
    assert shown == pytest.approx(1.5 * nothing_shown)
    assert time_of("evaluate.rows=100", "evaluate.few_shot=0").evaluation_seconds > nothing_shown
    assert time_of("evaluate.rows=50", "evaluate.max_new_tokens=8").evaluation_seconds < nothing_shown


def test_a_learning_curve_trains_three_quarters_more(time_of):
    plain, curve = (time_of("train.epochs=1", f"evaluate.learning_curve={wish}") for wish in ("false", "true"))
    more = curve.total_seconds - plain.total_seconds
    assert more > 0.7 * plain.steps * plain.step_seconds


def test_several_gpus_share_the_work_and_send_messages(time_of, gpu):
    settings = ("technique=full", "train.tokens_per_step=65536")
    one = time_of(*settings, hardware=gpu)
    eight = time_of(*settings, "train.devices=8", "strategy=ddp", hardware=gpu)
    assert one.communication_seconds == 0 < eight.communication_seconds
    assert one.step_seconds / 8 < eight.step_seconds < one.step_seconds
    cut = time_of(*settings, "train.devices=8", "strategy=fsdp", hardware=gpu)
    assert cut.communication_seconds > eight.communication_seconds
    apart = time_of(*settings, "train.devices=4", "train.nodes=2", "strategy=ddp", hardware=gpu)
    assert apart.communication_seconds > eight.communication_seconds


def test_processes_on_one_processor_are_no_faster(time_of):
    assert time_of("train.devices=2", "strategy=ddp").step_seconds > time_of().step_seconds


def test_packed_weights_are_unpacked_again_and_again(time_of):
    assert time_of("technique=qlora").step_seconds > time_of("technique=lora").step_seconds


def test_a_price_is_counted_only_where_there_is_one(time_of, gpu):
    plan = time_of(hardware=gpu)
    assert (plan.price, plan.currency) == (None, None)
    priced = gpu.model_copy(
        update={
            "price_per_hour": 2.0,
            "currency": "EUR",
            "price_date": datetime.date(2026, 11, 1),
            "price_source": "made up",
        }
    )
    plan = time_of("train.devices=4", "strategy=ddp", hardware=priced)
    assert plan.price == pytest.approx(4 * 2.0 * plan.total_seconds / 3600)
    assert plan.currency == "EUR"


def test_a_calibration_scales_time(time_of, processor):
    slow = processor.model_copy(update={"time_scale": 2.0})
    assert time_of(hardware=slow).step_seconds == pytest.approx(2 * time_of().step_seconds)
