"""The LoRA layer of our own against PEFT's: values, gradients, what it keeps, and several adapters at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from technique_cases import QUIET
from tiny_models import FAMILIES
from tiny_training import counting_rows, packed_model

from tunesmith.data.joined import join_packs
from tunesmith.data.packs import lay_out
from tunesmith.data.types import Pack
from tunesmith.engine.mode import training_mode
from tunesmith.models.adapters import without_adapter
from tunesmith.models.attention import ATTENTION
from tunesmith.models.forward import label_logits
from tunesmith.models.load import LoadPlan, load_model
from tunesmith.models.quantized import Quantization, is_packed
from tunesmith.models.running import running
from tunesmith.objectives.cross_entropy import token_losses
from tunesmith.techniques import low_rank_layer
from tunesmith.techniques.low_rank_layer import LowRankLinear, is_plain, join_siblings, use_own_layers

pytestmark = [pytest.mark.filterwarnings(line) for line in (*QUIET, "ignore:.*lora_bias=True.*was passed")]

ROWS = counting_rows(6)
(PACK,) = lay_out([(at, ROWS[at]) for at in range(6)], tokens_per_micro_batch=500)
TARGETS = "all-linear"


def wrapped(model: Any, *, own: bool, names: tuple[str, ...] = ("default",), **options: Any) -> Any:
    """The model with LoRA whose B matrices are not zero, the same ones for the same name; ``own`` says whose layers."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, **options}
    config = peft.LoraConfig(**settings)
    if own:
        use_own_layers(config)
    adapted = peft.get_peft_model(model, config, adapter_name=names[0])
    for name in names[1:]:
        other = peft.LoraConfig(**settings)
        if own:
            use_own_layers(other)
        adapted.add_adapter(name, other)
    if own:
        join_siblings(adapted)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in sorted(adapted.named_parameters()):
        if ".lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter) / 8
            parameter.requires_grad_(True)
    return adapted


def loss_and_gradients(model: Any, pack: Pack) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    with running(pack):
        losses_L, _ = token_losses(label_logits(model, pack), torch.from_numpy(pack.labels_L))
        losses_L.sum().backward()
    return losses_L.detach(), {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def require_equal(one: Any, other: Any, tolerance: float = 1e-10) -> None:
    losses, gradients = one
    expected_losses, expected = other
    assert gradients.keys() == expected.keys()
    assert gradients
    torch.testing.assert_close(losses, expected_losses, rtol=tolerance, atol=tolerance)
    for name, gradient in gradients.items():
        # Entries that nearly cancel are as exact as the largest of their sums.
        allowed = tolerance * max(1.0, float(expected[name].abs().max()))
        torch.testing.assert_close(gradient, expected[name], rtol=tolerance, atol=allowed, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_are_those_of_peft(tmp_path: Path, family: str) -> None:
    packed_model(family, tmp_path)
    results = []
    for own in (True, False):
        model = wrapped(packed_model(family, tmp_path, dtype=torch.float64), own=own).train()
        assert any(isinstance(module, LowRankLinear) for module in model.modules()) is own
        results.append(loss_and_gradients(model, PACK))
    require_equal(*results)


@pytest.mark.parametrize("twice", [True, False], ids=["double", "single"])
def test_values_and_gradients_over_four_bits_are_those_of_peft(tmp_path: Path, twice: bool) -> None:
    pytest.importorskip("bitsandbytes")
    packed_model("llama", tmp_path)
    results = []
    for own in (True, False):
        model = load_model(LoadPlan(tmp_path, quantization=Quantization("nf4", twice), attention=ATTENTION))
        model = wrapped(model, own=own).train()
        layers = [module for module in model.modules() if isinstance(module, LowRankLinear)]
        assert bool(layers) is own
        assert all(is_plain(layer) and is_packed(layer.get_base_layer()) for layer in layers)
        results.append(loss_and_gradients(model, PACK))
    require_equal(*results, tolerance=2e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"rank_pattern": {"k_proj": 2, "up_proj": 6}, "alpha_pattern": {"v_proj": 3}},
        {"target_modules": ["q_proj", "v_proj", "down_proj"]},
        {"use_rslora": True},
        {"use_dora": True},
        {"lora_bias": True},
    ],
    ids=["patterns", "some", "rslora", "dora", "bias"],
)
def test_settings_of_lora_mean_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    results = [
        loss_and_gradients(
            wrapped(packed_model("qwen2", tmp_path, dtype=torch.float64), own=own, **options).train(), PACK
        )
        for own in (True, False)
    ]
    require_equal(*results)


def test_dropout_is_the_librarys(tmp_path: Path) -> None:
    results = []
    for own in (True, False):
        model = wrapped(packed_model("llama", tmp_path, dtype=torch.float64), own=own, lora_dropout=0.5).train()
        torch.manual_seed(0)
        results.append(loss_and_gradients(model, PACK))
    require_equal(*results)


def test_half_precision_products_differ_by_rounding_alone(tmp_path: Path) -> None:
    losses = []
    for own in (True, False):
        model = wrapped(packed_model("llama", tmp_path, dtype=torch.bfloat16), own=own).train()
        with torch.autocast("cpu", torch.bfloat16):
            result, gradients = loss_and_gradients(model, PACK)
        assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
        losses.append(result.float())
    torch.testing.assert_close(*losses, rtol=0.05, atol=0.05)


def test_layers_computed_a_second_time_give_the_same_gradients(tmp_path: Path) -> None:
    model = wrapped(packed_model("llama", tmp_path, dtype=torch.float64), own=True)
    with training_mode(model, activation_checkpointing=False):
        plain = loss_and_gradients(model, PACK)
    with training_mode(model, activation_checkpointing=True):
        again = loss_and_gradients(model, PACK)
    require_equal(plain, again)


@pytest.mark.parametrize("checkpointing", [False, True, 1])
def test_nothing_is_kept_behind_a_step(tmp_path: Path, checkpointing: bool | int) -> None:
    # A second pass of a layer that breaks off halfway once kept the input of its last product, and all behind it.
    model = wrapped(packed_model("llama", tmp_path), own=True)
    with training_mode(model, activation_checkpointing=checkpointing):
        loss_and_gradients(model, PACK)
        kept = [layer.siblings for layer in model.modules() if isinstance(layer, LowRankLinear)]
        assert kept
        assert all(one is not None and one._input is None and not one._outputs for one in kept)


def test_turned_off_and_merged_adapters_are_respected(tmp_path: Path) -> None:
    base = packed_model("llama", tmp_path, dtype=torch.float64)
    with torch.no_grad():
        expected = label_logits(base, PACK)
        model = wrapped(base, own=True).train()
        tuned = label_logits(model, PACK)
        assert not torch.allclose(tuned, expected)
        with without_adapter(model):
            torch.testing.assert_close(label_logits(model, PACK), expected)
        model.merge_adapter()
        torch.testing.assert_close(label_logits(model, PACK), tuned)
        model.unmerge_adapter()
        torch.testing.assert_close(label_logits(model, PACK), tuned)


def test_siblings_keep_their_input_once_and_frozen_weights_get_no_gradient(tmp_path: Path) -> None:
    kept: dict[bool, int] = {}
    for own in (True, False):
        model = wrapped(packed_model("llama", tmp_path, dtype=torch.bfloat16), own=own).train()
        storages: dict[int, int] = {}

        def pack_hook(tensor: torch.Tensor, storages: dict[int, int] = storages) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with (
            torch.autocast("cpu", torch.bfloat16),
            torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor),
        ):
            label_logits(model, PACK).float().sum()
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        kept[own] = sum(size for place, size in storages.items() if place not in weights)
    assert kept[True] < 0.9 * kept[False]


def test_layers_that_get_tensors_of_their_own_compute_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    compute = low_rank_layer._compute
    monkeypatch.setattr(
        low_rank_layer, "_compute", lambda layers, inputs: (computed.append(len(layers)), compute(layers, inputs))[1]
    )
    model = wrapped(packed_model("llama", tmp_path, dtype=torch.float64), own=True, target_modules=["q_proj", "k_proj"])
    plain = loss_and_gradients(model.train(), PACK)
    assert computed == [2, 2]
    for module in model.modules():
        if isinstance(module, LowRankLinear):
            module.register_forward_pre_hook(lambda _module, inputs: (inputs[0].clone(),))
    for expected in ([2, 1, 2, 1], [1, 1, 1, 1]):
        computed.clear()
        require_equal(loss_and_gradients(model, PACK), plain)
        assert computed == expected


def test_tokens_of_several_adapters_in_one_pack_learn_as_each_alone(tmp_path: Path) -> None:
    model = wrapped(packed_model("llama", tmp_path, dtype=torch.float64), own=True, names=("first", "second")).train()
    packs = {
        name: lay_out([(at, ROWS[at]) for at in rows], tokens_per_micro_batch=500)[0]
        for name, rows in {"first": range(3), "second": range(3, 6)}.items()
    }
    losses, gradients = loss_and_gradients(model, join_packs(packs))
    alone: dict[str, torch.Tensor] = {}
    expected = []
    for name, pack in packs.items():
        named = replace(pack, segments=tuple(replace(segment, adapter=name) for segment in pack.segments))
        own_losses, own = loss_and_gradients(model, named)
        expected.append(own_losses)
        assert all(f".{name}." in key for key in own)
        alone |= own
    require_equal((losses, gradients), (torch.cat(expected), alone))


def test_joined_packs_keep_labels_and_rows_apart() -> None:
    joined = join_packs({"first": PACK, "second": PACK})
    assert joined.tokens == 2 * PACK.tokens
    assert np.array_equal(
        joined.token_ids_T[joined.label_positions_L], np.tile(PACK.token_ids_T[PACK.label_positions_L], 2)
    )
    assert joined.label_rows_L.max() == 2 * len(PACK.rows) - 1
    parents = [segment.parent for segment in joined.segments]
    assert parents[: len(PACK.segments)] == [segment.parent for segment in PACK.segments]
    assert all(
        joined.segments[segment.parent].adapter == segment.adapter
        for segment in joined.segments
        if segment.parent is not None
    )
