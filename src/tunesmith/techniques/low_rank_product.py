"""Several linear layers on one input, each with low-rank updates, as one step of autograd.

    y_i = x W_i^T + b_i + s_i (x A_i^T) B_i^T          (LoRA, Hu et al. 2021)

Layers of modules keep an input for each layer and each type, make a tensor of the output's size for every update, and
add it to another. Here the input is kept once, the down projections of all layers are one product, and updates are
added into the outputs where they lie. The weights W are frozen: no gradient of theirs is ever made. Quantized ones are
made plain one at a time, in both directions, and never kept. Tokens of several adapters may stand in one input: the
large products are then made once for all of them.

Shape suffixes: T tokens, I inputs, O outputs of one layer, R ranks of all layers of one adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch.nn.functional import linear

# The weight that a quantized one stands for, ``[O, I]``, made anew by each call.
Unpack = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Factors:
    """One adapter's updates of the layers: ``down`` are A ``[rank, I]``, ``up`` are B ``[O, rank]``."""

    down: Sequence[torch.Tensor]
    up: Sequence[torch.Tensor]
    scales: tuple[float, ...]


@dataclass(frozen=True)
class Span:
    """Tokens ``start`` to ``end`` of the input belong to the adapter of this number."""

    start: int
    end: int
    adapter: int


def low_rank_product(
    inputs: torch.Tensor,
    weights: Sequence[torch.Tensor | Unpack],
    biases: Sequence[torch.Tensor | None],
    adapters: Sequence[Factors],
    spans: Sequence[Span] | None = None,
) -> tuple[torch.Tensor, ...]:
    """Outputs of all layers, in the type of autocast where it is on, else in that of the input.

    Args:
        inputs: ``[..., I]``.
        weights: Frozen weight of each layer, ``[O, I]``, or what makes it.
        biases: Frozen bias of each layer, ``[O]``, or None.
        adapters: Each with one update for each layer.
        spans: Which tokens belong to which adapter, tokens counted over all leading dimensions; tokens outside get no
            update. None: all tokens belong to the first adapter.
    """
    kind = inputs.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
    if spans is None:
        spans = (Span(0, inputs.numel() // inputs.shape[-1], 0),)
    packed = tuple(None if isinstance(weight, torch.Tensor) else weight for weight in weights)
    plain = [weight if isinstance(weight, torch.Tensor) else None for weight in weights]
    layout = _Layout(dtype, packed, tuple(adapter.scales for adapter in adapters), tuple(spans))
    factors = [tensor for adapter in adapters for tensor in (*adapter.down, *adapter.up)]
    outputs: tuple[torch.Tensor, ...] = _LowRankProduct.apply(layout, inputs, *plain, *biases, *factors)  # type: ignore[no-untyped-call]
    return outputs


@dataclass(frozen=True)
class _Layout:
    """What is no tensor: the type of the products, what makes each layer's weight where it is quantized, scales by
    adapter and layer, and the spans."""

    dtype: torch.dtype
    packed: tuple[Unpack | None, ...]
    scales: tuple[tuple[float, ...], ...]
    spans: tuple[Span, ...]

    @property
    def layers(self) -> int:
        """How many."""
        return len(self.packed)

    def weight(self, tensors: Sequence[torch.Tensor | None], at: int) -> torch.Tensor:
        """The weight of one layer, in the type of the products."""
        unpack, plain = self.packed[at], tensors[at]
        found = unpack() if unpack is not None else plain
        assert found is not None, "a layer has a weight, or what makes it"
        return found.to(self.dtype)

    def factors(self, tensors: Sequence[Any], adapter: int) -> tuple[Sequence[Any], Sequence[Any]]:
        """A and B of one adapter, out of those of all."""
        start = 2 * self.layers * adapter
        return tensors[start : start + self.layers], tensors[start + self.layers : start + 2 * self.layers]

    def down(self, tensors: Sequence[Any], adapter: int) -> torch.Tensor:
        """A of all layers of one adapter, ``[R, I]``."""
        return torch.cat(tuple(self.factors(tensors, adapter)[0])).to(self.dtype)


class _LowRankProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layout: _Layout, inputs: torch.Tensor, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        count = layout.layers
        weights, biases, factors = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
        with torch.autocast(inputs.device.type, enabled=False):
            x = inputs.to(layout.dtype)
            outputs = tuple(
                linear(x, layout.weight(weights, at), None if bias is None else bias.to(layout.dtype))
                for at, bias in enumerate(biases)
            )
            x_T_I = x.reshape(-1, x.shape[-1])
            downs = [layout.down(factors, at) for at in range(len(layout.scales))]
            lows = [x_T_I[span.start : span.end] @ downs[span.adapter].T for span in layout.spans]
            for span, low_T_R in zip(layout.spans, lows, strict=True):
                _, ups = layout.factors(factors, span.adapter)
                places = _places(ups)
                for output, up, place, scale in zip(outputs, ups, places, layout.scales[span.adapter], strict=True):
                    own_T_O = output.view(-1, output.shape[-1])[span.start : span.end]
                    own_T_O.addmm_(low_T_R[:, place], up.to(layout.dtype).T, alpha=scale)
        ctx.layout, ctx.shape, ctx.input_dtype = layout, inputs.shape, inputs.dtype
        ctx.save_for_backward(x_T_I, *lows, *weights, *factors)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[Any, ...]:
        layout: _Layout = ctx.layout
        x_T_I, *saved = ctx.saved_tensors
        lows, saved = saved[: len(layout.spans)], saved[len(layout.spans) :]
        weights, factors = saved[: layout.layers], saved[layout.layers :]
        outs = [None if one is None else one.reshape(-1, one.shape[-1]).to(layout.dtype) for one in gradients]
        input_T_I = _through_weights(outs, weights, layout) if ctx.needs_input_grad[1] else None
        found: list[torch.Tensor | None] = [None] * len(factors)
        for span, low_T_R in zip(layout.spans, lows, strict=True):
            downs, ups = layout.factors(factors, span.adapter)
            places, first = _places(ups), 2 * layout.layers * span.adapter
            wanted_T_R = torch.zeros_like(low_T_R)
            for at, (out_T_O, place) in enumerate(zip(outs, places, strict=True)):
                if out_T_O is None:
                    continue
                own_T_O, scale = out_T_O[span.start : span.end], layout.scales[span.adapter][at]
                torch.mm(own_T_O, ups[at].to(layout.dtype), out=wanted_T_R[:, place]).mul_(scale)
                _add(found, first + layout.layers + at, (own_T_O.T @ low_T_R[:, place]).mul_(scale).to(ups[at].dtype))
            own_T_I = x_T_I[span.start : span.end]
            for at, (piece, down) in enumerate(zip((wanted_T_R.T @ own_T_I).split(_sizes(ups)), downs, strict=True)):
                _add(found, first + at, piece.to(down.dtype))
            if input_T_I is not None:
                input_T_I[span.start : span.end].addmm_(wanted_T_R, layout.down(factors, span.adapter))
        gradient = None if input_T_I is None else input_T_I.view(ctx.shape).to(ctx.input_dtype)
        return None, gradient, *([None] * (2 * layout.layers)), *found


def _sizes(ups: Sequence[torch.Tensor]) -> list[int]:
    return [up.shape[1] for up in ups]


def _places(ups: Sequence[torch.Tensor]) -> list[slice]:
    """Where each layer's ranks lie among those of all."""
    ends = list(accumulate(_sizes(ups)))
    return [slice(end - size, end) for end, size in zip(ends, _sizes(ups), strict=True)]


def _through_weights(
    outs: Sequence[torch.Tensor | None], weights: Sequence[torch.Tensor | None], layout: _Layout
) -> torch.Tensor | None:
    total_T_I: torch.Tensor | None = None
    for at, out_T_O in enumerate(outs):
        if out_T_O is not None:
            own = layout.weight(weights, at)
            total_T_I = out_T_O @ own if total_T_I is None else total_T_I.addmm_(out_T_O, own)
    return total_T_I


def _add(found: list[torch.Tensor | None], at: int, gradient: torch.Tensor) -> None:
    known = found[at]
    found[at] = gradient if known is None else known.add_(gradient)
