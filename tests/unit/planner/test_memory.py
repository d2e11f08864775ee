"""Memory: one plan by hand, what was measured, and what must hold whatever the coefficients are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunesmith.catalog.entries import find_entry
from tunesmith.planner.hardware import FRAMEWORK_BYTES, PROCESS_BYTES
from tunesmith.planner.memory import predict_memory
from tunesmith.planner.shape import shape_of_config, shape_of_entry
from tunesmith.planner.trained import Counted
from tunesmith.recipe.facts import DataFacts
from tunesmith.recipe.techniques import PeftMethod

GIB = 2**30
# Four rows of 50 tokens, of which 20 train.
FOUR_ROWS = DataFacts("chat", "messages", rows=4, validation_rows=0, tokens=200, trained_tokens=80, longest_row=50)


@pytest.fixture
def memory_of(starter, data, processor, settled):
    def make(*settings, hardware=processor, shape=starter, data=data, **more):
        resolved = settled(*settings, hardware=hardware, shape=shape, data=data)
        return predict_memory(shape, resolved, data, hardware, **more)

    return make


def test_a_tiny_full_training_by_hand(tiny, memory_of):
    """200 tokens in one pack, 80 labels of a vocabulary of 400, two layers of 2,328 bytes a token."""
    plan = memory_of("technique=full", "train.tokens_per_step=200", shape=tiny, data=FOUR_ROWS)
    parameters = 31_392
    layer = 4 * (6 * 32 + 3 * 32 + 2 * 16 + 4 * 64 + 4 + 2)
    on_the_way_back, outside = 4 * (3 * 64 + 2 * 32), 4 * 3 * 32
    assert layer == 2328
    assert plan.weights == 4 * parameters
    assert plan.optimizer == 8 * parameters
    assert plan.activations == 200 * (2 * layer + on_the_way_back + outside)
    assert plan.logits == 80 * 400 * (2 * 4 + 2 * 4)
    # One pack: gradients come as activations go. Those of the embeddings, which make the scores, come first.
    assert plan.gradients == 4 * 400 * 32
    assert (plan.adapters, plan.quantization, plan.communication) == (0, 0, 0)
    assert plan.framework == FRAMEWORK_BYTES["cpu"]
    assert plan.training == sum(plan.parts.values())
    assert plan.host == plan.peak
    assert plan.result == 4 * parameters


def test_gradients_of_earlier_packs_are_there_too(tiny, memory_of):
    settings = ("technique=full", "train.tokens_per_step=200", "train.tokens_per_micro_batch=100")
    assert memory_of(*settings, shape=tiny, data=FOUR_ROWS).gradients == 4 * 31_392


@pytest.mark.parametrize(
    ("settings", "measured_gib"),
    [
        (("technique=full",), 4.54),
        (("technique=full", "strategy=ddp", "train.devices=2"), 4.06),
        (("technique=lora",), 2.85),
        (("technique=lora", "train.tokens_per_micro_batch=512"), 2.2),
        (("technique=lora", "train.activation_checkpointing=15"), 2.19),
        (("technique=qlora",), 3.14),
        (("technique=qlora", "train.tokens_per_micro_batch=512"), 2.05),
        (("technique=qlora", "train.tokens_per_micro_batch=2048"), 4.20),
        (("technique=lora", "train.activation_checkpointing=true"), 1.6),
    ],
)
def test_what_was_measured_on_two_cores(memory_of, settings, measured_gib):
    """The starter model in float32, packs of 1,024 tokens of conversations; docs/performance.md."""
    plan = memory_of(*settings, "train.tokens_per_micro_batch=1024", *settings)
    assert plan.training / GIB == pytest.approx(measured_gib, rel=0.1)


def test_more_tokens_more_rank_and_more_layers_take_more(memory_of, starter):
    packs = [memory_of(f"train.tokens_per_micro_batch={tokens}").training for tokens in (600, 1000, 2000)]
    ranks = [memory_of(f"technique.rank={rank}").training for rank in (4, 16, 64)]
    layers = [memory_of(shape=replace(starter, layers=count)).activations for count in (10, 20, 30)]
    assert packs == sorted(set(packs))
    assert ranks == sorted(set(ranks))
    assert layers == sorted(set(layers))


def test_full_takes_more_than_lora_and_lora_more_than_qlora(memory_of):
    entry = find_entry("smollm3-3b")
    assert entry is not None
    shape = shape_of_entry(entry)
    peaks = [memory_of(f"technique={name}", shape=shape).training for name in ("full", "lora", "qlora")]
    assert peaks == sorted(set(peaks), reverse=True)


def test_of_a_small_model_four_bits_save_less_than_they_take_on_a_processor(memory_of):
    """As measured: gaps between activations and the library of quantization weigh more than 80 MB of weights."""
    lora, qlora = (
        memory_of(f"technique={name}", "train.tokens_per_micro_batch=1024").training for name in ("lora", "qlora")
    )
    assert qlora > lora


def test_weights_in_fewer_bits_take_less(memory_of):
    weights = [memory_of("technique=qlora", f"technique.quantization={kind}").weights for kind in ("int8", "nf4")]
    assert weights == sorted(set(weights), reverse=True)


def test_scales_of_four_bits_are_counted(memory_of, starter):
    """Half a byte a number, a byte of scale for 64 and four bytes for 64 x 256, tables, and one plain matrix."""
    plan = memory_of("technique=qlora")
    numbers, plain = 30 * starter.layer_matrices, 576 * 1536 * 4
    assert plan.weights == numbers // 2 + 4 * (starter.parameters - numbers)
    scales = numbers // 64 + 4 * numbers // (64 * 256)
    assert plan.quantization == scales + 30 * 7 * (16 + 256) * 4 + plain
    once = memory_of("technique=qlora", "technique.double_quantization=false")
    assert once.quantization == 4 * numbers // 64 + plain


def test_checkpointing_keeps_the_inputs_of_layers_alone(memory_of, starter):
    without, half, whole = (
        memory_of(f"train.activation_checkpointing={wish}").activations for wish in ("false", "15", "true")
    )
    assert without > half > whole
    # The inputs of thirty layers, one layer whole, and what is outside of them.
    assert whole < 1024 * 30 * 576 * 4 + without / 15


def test_layers_below_the_first_that_learns_keep_nothing(memory_of):
    every = memory_of("technique=lora", "technique.targets=[o_proj]").activations
    last = memory_of("technique=lora", "technique.targets=[model.layers.29.self_attn.o_proj]").activations
    assert last < every / 10
    assert memory_of("technique=freeze", "technique.layers=1").activations < every / 10


def test_half_precision_halves_what_it_can(memory_of, gpu):
    single = memory_of("train.precision=float32", hardware=gpu)
    half = memory_of("train.precision=bfloat16", hardware=gpu)
    assert half.weights * 2 == single.weights
    assert single.activations / 2 < half.activations < single.activations
    # What trains is float32 in any case.
    assert half.adapters == single.adapters
    full = memory_of("technique=full", "train.precision=bfloat16", hardware=gpu)
    assert full.weights == memory_of("technique=full", hardware=gpu).weights


PARTS = ("weights", "gradients", "optimizer")


@pytest.mark.parametrize(
    ("strategy", "cut"),
    [
        ("ddp", ()),
        ("zero1", ("optimizer",)),
        ("zero2", ("gradients", "optimizer")),
        ("zero3", PARTS),
        ("fsdp", PARTS),
    ],
)
def test_strategies_cut_what_they_say(memory_of, gpu, strategy, cut):
    """Of eight ranks with several packs each, so that gradients of earlier packs are there."""
    settings = ("technique=full", "train.tokens_per_step=65536", "train.devices=8")
    whole = memory_of(*settings, "strategy=ddp", hardware=gpu)
    found = memory_of(*settings, f"strategy={strategy}", hardware=gpu)
    for part in PARTS:
        # DeepSpeed keeps a copy of what trains beside the moments.
        copies = whole.weights if part == "optimizer" and strategy.startswith("zero") else 0
        expected = (getattr(whole, part) + copies) // (8 if part in cut else 1)
        assert getattr(found, part) == expected, part
    assert found.loading == whole.loading
    assert (found.communication > 0) == (strategy != "ddp")


def test_processes_without_a_gpu_share_the_host(memory_of):
    plan = memory_of("strategy=ddp", "train.devices=3")
    assert plan.host == 3 * plan.peak


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3", "fsdp"])
def test_offload_moves_what_is_cut_to_the_host(memory_of, gpu, strategy):
    settings = ("technique=full", "train.tokens_per_step=65536", "train.devices=8", f"strategy={strategy}")
    here = memory_of(*settings, hardware=gpu)
    away = memory_of(*settings, "train.offload=true", hardware=gpu)
    assert away.optimizer == 0 < here.optimizer
    assert (away.weights == 0) == (strategy in ("zero3", "fsdp"))
    assert (away.gradients == 0) == (strategy != "zero1")
    assert away.training < here.training


def test_what_is_offloaded_lies_on_the_host(memory_of, gpu, starter):
    """Half of the weights, gradients and moments of each of two ranks, where that exceeds the weights on their way."""
    settings = ("technique=full", "train.tokens_per_step=65536", "train.devices=2", "strategy=fsdp")
    whole = starter.parameters
    here = memory_of(*settings, hardware=gpu)
    away = memory_of(*settings, "train.offload=true", hardware=gpu)
    assert here.host == 2 * (PROCESS_BYTES + 4 * whole) + 12 * whole
    assert away.host == 2 * (PROCESS_BYTES + 16 * whole // 2) + 12 * whole


def test_the_host_has_room_for_each_process_and_the_weights_on_their_way(memory_of, gpu, starter):
    plan = memory_of("technique=full", "strategy=ddp", "train.devices=2", hardware=gpu)
    of_weights = 4 * starter.parameters
    assert plan.host == 2 * (PROCESS_BYTES + of_weights) + 3 * of_weights


def test_a_trained_output_matrix_makes_all_scores_and_a_frozen_one_some(memory_of, starter, data):
    whole, some = memory_of("technique=full"), memory_of("technique=lora")
    labels = -(-1024 * 119 // 217)
    assert whole.logits == 2 * 4 * labels * 49_152 + 2 * 4 * 2**22
    assert some.logits == 2 * 4 * 2**24
    # Cut over ranks, or with rows that train, the matrix is not there as it is.
    cut = memory_of("strategy=fsdp", "train.devices=2")
    assert cut.logits > memory_of("strategy=ddp", "train.devices=2").logits
    assert memory_of(new_tokens=2).logits == whole.logits


def test_heads_have_tiny_scores(memory_of, data):
    plan = memory_of("objective=sequence_classification", data=replace(data, task="classification", labels=77))
    assert plan.logits < 2**20


def test_an_encoder_has_a_plan(memory_of, data, tiny_config):
    shape = shape_of_config({**tiny_config, "model_type": "bert"}, "mine")
    labelled = replace(data, task="ner", labels=4, answer_tokens=0)
    plan = memory_of("objective=token_classification", shape=shape, data=labelled)
    assert plan.answering == 0
    assert plan.activations > 0


@pytest.mark.parametrize(
    ("optimizer", "bytes_a_number"),
    [("adamw", 8), ("schedule_free_adamw", 8), ("adamw_8bit", 2.03125), ("lion_8bit", 1.015625), ("adafactor", 0.08)],
)
def test_optimizers_keep_what_they_keep(memory_of, starter, optimizer, bytes_a_number):
    plan = memory_of("technique=full", f"train.optimizer={optimizer}")
    assert plan.optimizer == pytest.approx(bytes_a_number * starter.parameters, rel=1e-6)


def test_a_reference_without_gradients_takes_nothing_more(memory_of, data):
    pairs = replace(data, task="preference", shape="pairs", answer_tokens=0)
    assert memory_of("objective=dpo", data=pairs).training == memory_of("objective=sft", data=pairs).training


def test_an_adapter_that_moved_weights_is_kept_with_its_beginning(memory_of):
    assert memory_of("technique.initialization=pissa").adapters == 2 * memory_of().adapters


def test_what_no_formula_knows_is_said(memory_of):
    guess = memory_of("technique=osf")
    assert not guess.trained_is_known
    counted = memory_of("technique=osf", counted=Counted(PeftMethod(name="osf"), 10**6))
    assert counted.trained_is_known
    assert counted.trained_parameters == 10**6


def test_checkpoints_hold_weights_and_moments(memory_of, starter):
    plan = memory_of("technique=full", "train.keep_checkpoints=2")
    assert plan.checkpoints == 3 * 12 * starter.parameters


def test_a_calibration_scales_activations_alone(memory_of, processor):
    plain = memory_of()
    scaled = memory_of(hardware=processor.model_copy(update={"activation_scale": 1.5}))
    assert scaled.activations == pytest.approx(1.5 * plain.activations, abs=1)
    assert scaled.training - plain.training == scaled.activations - plain.activations


def test_headroom_is_that_of_the_device_for_a_host_can_drop_files(memory_of, gpu):
    plan = memory_of(hardware=gpu)
    assert plan.headroom(gpu) == int(0.94 * 80e9) - plan.peak
    small_host = gpu.model_copy(update={"host_memory_bytes": 2 * 10**9})
    assert plan.headroom(small_host) == plan.headroom(gpu)
    unknown_host = gpu.model_copy(update={"host_memory_bytes": None})
    assert plan.headroom(unknown_host) == plan.headroom(gpu)


def test_what_is_offloaded_has_to_be_there_on_the_host(memory_of, gpu):
    settings = ("technique=full", "train.devices=2", "strategy=zero2", "train.offload=true")
    plan = memory_of(*settings, hardware=gpu)
    assert plan.headroom(gpu) == plan.device_headroom(gpu)
    for left in (10**6, -(10**6)):
        host = gpu.model_copy(update={"host_memory_bytes": int((plan.offloaded + left) / 0.9)})
        assert plan.host_headroom(host) == pytest.approx(left, abs=2)
        assert (plan.headroom(host) >= 0) == (left > 0)
    unknown = gpu.model_copy(update={"host_memory_bytes": None})
    assert plan.host_headroom(unknown) is None
    assert plan.headroom(unknown) == plan.device_headroom(unknown)


def test_of_two_machines_each_keeps_its_own_part(memory_of, gpu):
    settings = ("technique=full", "strategy=zero2", "train.offload=true", "train.tokens_per_step=65536")
    one = memory_of(*settings, "train.devices=4", hardware=gpu).offloaded
    two = memory_of(*settings, "train.devices=2", "train.nodes=2", hardware=gpu).offloaded
    assert two == pytest.approx(one / 2, abs=10)
