"""States of the labels and the output matrix give the scores that the model gives, or are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import VOCABULARY_SIZE, tiny_config
from transformers import AutoModelForCausalLM

from tunesmith.data.packs import lay_out
from tunesmith.data.types import Pack, TokenRow
from tunesmith.models.attention import ATTENTION, BIDIRECTIONAL_FAMILIES, PACKED_FAMILIES
from tunesmith.models.forward import label_logits, label_states
from tunesmith.objectives.cross_entropy import token_losses
from tunesmith.objectives.label_loss import next_token_losses

FAMILIES = sorted(PACKED_FAMILIES - BIDIRECTIONAL_FAMILIES)
CAPPED = ("gemma2",)


def frozen_model(family: str, attention: str = ATTENTION) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config(family), attn_implementation=attention).double()
    model.requires_grad_(False)
    # Something before the output matrix is trained, as an adapter is.
    first = next(iter(model.model.layers[0].self_attn.parameters()))
    first.requires_grad_()
    return model


def pack_of_three(*, share: bool) -> Pack:
    numbers = np.random.default_rng(0)
    rows = []
    for at, length in enumerate((9, 14, 20)):
        ids_T = np.concatenate([np.arange(3, 43), numbers.integers(3, VOCABULARY_SIZE, length)])
        rows.append((at, TokenRow(ids_T, np.arange(len(ids_T)) >= 44, f"row {at}")))
    (pack,) = lay_out(rows, tokens_per_micro_batch=1000, share_prefix=share)
    return pack


def losses_and_gradient(model: Any, pack: Pack, *, whole: bool) -> tuple[torch.Tensor, torch.Tensor]:
    labels_L = torch.from_numpy(pack.labels_L)
    losses_L = token_losses(label_logits(model, pack), labels_L)[0] if whole else next_token_losses(model, pack)[0]
    (losses_L * torch.linspace(0.5, 2, len(labels_L), dtype=torch.float64)).sum().backward()
    (trained,) = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradient, trained.grad = trained.grad, None
    return losses_L.detach(), gradient


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_whole_scores(family: str) -> None:
    model, pack = frozen_model(family), pack_of_three(share=True)
    assert (label_states(model, pack) is None) == (family in CAPPED)
    expected_L, expected = losses_and_gradient(model, pack, whole=True)
    found_L, found = losses_and_gradient(model, pack, whole=False)
    torch.testing.assert_close(found_L, expected_L)
    torch.testing.assert_close(found, expected)


def test_rows_that_go_through_one_by_one_too() -> None:
    model, pack = frozen_model("llama", "sdpa"), pack_of_three(share=False)
    assert label_states(model, pack) is not None
    expected_L, expected = losses_and_gradient(model, pack, whole=True)
    found_L, found = losses_and_gradient(model, pack, whole=False)
    torch.testing.assert_close(found_L, expected_L)
    torch.testing.assert_close(found, expected)


def test_no_scores_are_made_and_no_hook_stays() -> None:
    model, pack = frozen_model("llama"), pack_of_three(share=True)
    sizes: list[int] = []
    hook = model.lm_head.register_forward_hook(lambda _module, _inputs, out: sizes.append(out.numel()))
    label_states(model, pack)
    assert sizes == [0]
    hook.remove()
    assert not model.lm_head._forward_pre_hooks
    assert label_logits(model, pack).shape == (len(pack.labels_L), VOCABULARY_SIZE)


@pytest.mark.parametrize("reason", ["trained", "bias", "other class", "marked by DeepSpeed", "unknown family"])
def test_whole_scores_are_made_where_the_product_is_not_all_or_the_matrix_not_at_hand(reason: str) -> None:
    model, pack = frozen_model("llama"), pack_of_three(share=True)
    head = model.lm_head
    if reason == "trained":
        head.weight.requires_grad_()
    elif reason == "bias":
        head.bias = torch.nn.Parameter(torch.randn(VOCABULARY_SIZE, dtype=torch.float64), requires_grad=False)
    elif reason == "other class":
        model.lm_head = type("Own", (torch.nn.Linear,), {})(*reversed(head.weight.shape), bias=False).double()
    elif reason == "marked by DeepSpeed":
        head.weight.ds_id = 7
    else:
        model.config.model_type = "other"
    assert label_states(model, pack) is None
    losses_L, _ = next_token_losses(model, pack)
    expected_L, _ = token_losses(label_logits(model, pack), torch.from_numpy(pack.labels_L))
    torch.testing.assert_close(losses_L, expected_L)
