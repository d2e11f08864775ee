"""Attention by matrix products against the same in double precision, beside PyTorch's kernel in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import counting_rows, packed_model
from torch.nn.functional import scaled_dot_product_attention

from tunesmith.data.packs import lay_out
from tunesmith.models import product_attention as module
from tunesmith.models.forward import label_logits
from tunesmith.models.product_attention import product_attention, takes_products

HEADS, KEY_HEADS, SIZE = 6, 2, 16

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def draw(queries: int, keys: int) -> Tensors:
    generator = torch.Generator().manual_seed(queries + keys)
    shapes = ((HEADS, queries), (KEY_HEADS, keys), (KEY_HEADS, keys))
    query, key, value = (torch.randn(1, *shape, SIZE, generator=generator).bfloat16() for shape in shapes)
    return query, key, value


def fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: Any, scaling: float) -> torch.Tensor:
    return scaled_dot_product_attention(
        query, key, value, attn_mask=seen, is_causal=seen is None, scale=scaling, enable_gqa=True
    )


def traced(attend: Callable[..., torch.Tensor], tensors: Tensors, seen: Any, dtype: torch.dtype) -> list[torch.Tensor]:
    """The output and the gradients of queries, keys and values."""
    leaves = [tensor.to(dtype).requires_grad_() for tensor in tensors]
    out = attend(*leaves, seen, 0.3)
    (out.double() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    return [out.detach().double(), *(leaf.grad.double() for leaf in leaves if leaf.grad is not None)]


def error(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "made again"])
@pytest.mark.parametrize(
    ("queries", "inherited"), [(1, 0), (7, 0), (96, 0), (150, 0), (333, 0), (30, 50), (200, 41), (1, 9)]
)
def test_outputs_and_gradients_are_as_near_the_truth_as_those_of_the_fused_kernel(
    monkeypatch: pytest.MonkeyPatch, queries: int, inherited: int, kept: bool
) -> None:
    if not kept:
        monkeypatch.setattr(module, "_MOST_KEPT", 0)
    keys = queries + inherited
    seen = torch.ones(queries, keys, dtype=torch.bool).tril(inherited) if inherited else None
    tensors = draw(queries, keys)
    truth = traced(fused, tensors, seen, torch.float64)
    found = traced(product_attention, tensors, seen, torch.bfloat16)
    assert len(found) == len(truth) == 4
    for own, wanted in zip(found, truth, strict=True):
        if float(wanted.norm()) > 0:
            assert error(own, wanted) < 0.01


def test_siblings_under_a_mask_do_not_see_each_other() -> None:
    tensors = draw(8, 20)
    seen = torch.zeros(8, 20, dtype=torch.bool)
    seen[:, :12] = True
    seen[:4, 12:16] = torch.ones(4, 4, dtype=torch.bool).tril()
    seen[4:, 16:] = torch.ones(4, 4, dtype=torch.bool).tril()
    whole = product_attention(*tensors, seen, 0.3)
    for rows, columns in ((slice(0, 4), range(16)), (slice(4, 8), [*range(12), *range(16, 20)])):
        query, key, value = tensors
        own = list(columns)
        alone = product_attention(query[:, :, rows], key[:, :, own], value[:, :, own], seen[rows][:, own], 0.3)
        torch.testing.assert_close(whole[:, :, rows], alone, rtol=0, atol=0.02)


def test_the_products_are_taken_in_bfloat16_for_texts_that_are_not_long() -> None:
    query, key, _ = draw(4, 4)
    assert takes_products(query, key)
    assert not takes_products(query.float(), key)
    assert not takes_products(query, key.expand(1, KEY_HEADS, 4, SIZE).repeat(1, 1, 500, 1))


def test_memory_for_the_backward_pass_grows_with_the_length_of_long_texts() -> None:
    kept = {}
    for queries in (256, 1024):
        tensors = [tensor.requires_grad_() for tensor in draw(queries, queries)]
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            product_attention(*tensors, None, 0.3)
        kept[queries] = sum(sizes) / queries
    assert kept[1024] < kept[256]


def test_a_model_that_is_trained_takes_them_with_and_without_gradient_and_no_other_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = packed_model("llama", tmp_path, dtype=torch.bfloat16)
    (pack,) = lay_out([(at, counting_rows(3)[at]) for at in range(3)], tokens_per_micro_batch=500)
    calls: list[torch.Tensor] = []
    monkeypatch.setattr(
        "tunesmith.models.attention.product_attention",
        lambda *given: calls.append(given[0]) or product_attention(*given),
    )
    label_logits(model.eval(), pack)
    assert not calls
    trained = label_logits(model.train(), pack)
    assert calls
    with torch.no_grad():
        reference = label_logits(model, pack)
    assert torch.equal(trained, reference)
