"""Many low-rank adapters on one model: in one forward pass every row is computed with its own.

The base's own product is made for all rows together. Beside it the factors of all adapters in the batch stand stacked
as one pair of matrices, and a mask keeps each row to its own ranks, so adapters of different ranks mix freely:

    y = base(x) + ((x down^T) * mask) up^T

Shape suffixes: N rows, R stacked ranks of the adapters in use, I inputs of a layer, O outputs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tunesmith.models.low_rank_adapters import Factors, LowRankAdapter

# Stacks of so many combinations of adapters are kept; batches change by a row, and then come back.
_STACKS = 8


@dataclass(frozen=True)
class _Stacked:
    """The factors of one layer for some adapters; ``ranks`` are theirs in order, 0 for one without a part in it."""

    down_IR: torch.Tensor
    up_RO: torch.Tensor
    scales: torch.Tensor | None
    ranks: tuple[int, ...]


class MixedAdapters:
    """Hooks on a model's layers that add what the adapters of the rows add; outside of :meth:`use` they do nothing.

    Args:
        model: The base; its layers get hooks once an adapter has a part in them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = dict(model.named_modules())
        self._hooked: set[str] = set()
        self._stacks: OrderedDict[tuple[int, ...], tuple[list[LowRankAdapter], dict[str, _Stacked]]] = OrderedDict()
        self._current: _Use | None = None

    @contextmanager
    def use(self, adapters_N: Sequence[LowRankAdapter | None]) -> Iterator[None]:
        """Compute row n of the forward passes in the block with adapter n, None for the base."""
        distinct = sorted({id(one): one for one in adapters_N if one is not None}.items())
        if not distinct:
            yield
            return
        members = [adapter for _, adapter in distinct]
        places = {key: at for at, (key, _) in enumerate(distinct)}
        rows_N = [places[id(one)] if one is not None else -1 for one in adapters_N]
        self._current = _Use(self._stacked(members), rows_N)
        try:
            yield
        finally:
            self._current = None

    def forget(self, adapter: LowRankAdapter) -> None:
        """Let go of what was made for an adapter that leaves."""
        self._stacks = OrderedDict(
            (key, kept) for key, kept in self._stacks.items() if all(one is not adapter for one in kept[0])
        )

    def _stacked(self, members: list[LowRankAdapter]) -> dict[str, _Stacked]:
        key = tuple(id(one) for one in members)
        kept = self._stacks.pop(key, None)
        if kept is None:
            names = {name for one in members for name in one.layers}
            # The adapters are kept beside it: an id means the same adapter only as long as that lives.
            kept = (members, {name: _stack([one.layers.get(name) for one in members]) for name in names})
            for name in names - self._hooked:
                self._layers[name].register_forward_hook(self._hook_of(name))
                self._hooked.add(name)
        self._stacks[key] = kept
        while len(self._stacks) > _STACKS:
            self._stacks.popitem(last=False)
        return kept[1]

    def _hook_of(self, name: str) -> Any:
        def add(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            if self._current is None:
                return None
            return self._current.added(name, layer, inputs[0], output)

        return add


class _Use:
    """The adapters of one block, and which row has which; -1 for none."""

    def __init__(self, stacks: dict[str, _Stacked], rows_N: list[int]) -> None:
        self._stacks = stacks
        self._rows_N = rows_N
        self._masks: dict[tuple[int, ...], torch.Tensor | None] = {}

    def added(self, name: str, layer: Any, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor | None:
        stacked = self._stacks.get(name)
        if stacked is None:
            return None
        down_IR, up_RO = stacked.down_IR, stacked.up_RO
        inner = inputs.to(down_IR.dtype).reshape(-1, down_IR.shape[0]) @ down_IR
        mask = self._mask(stacked.ranks, inner.device, inner.dtype)
        if mask is not None:
            inner = (inner.view(len(self._rows_N), -1, inner.shape[1]) * mask).view_as(inner)
        if stacked.scales is None and output.dtype == up_RO.dtype:
            return torch.addmm(output.reshape(-1, up_RO.shape[1]), inner, up_RO).view_as(output)
        delta = (inner @ up_RO).view_as(output).to(output.dtype)
        if stacked.scales is None:
            return output + delta
        index = torch.tensor(self._rows_N, device=output.device) + 1
        factors = stacked.scales[index][:, None].to(output.dtype)
        bias = getattr(layer, "bias", None)
        return (output * factors if bias is None else (output - bias) * factors + bias) + delta

    def _mask(self, ranks: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor | None:
        """1 where a rank is of the row's own adapter; None where all are of the one adapter that all rows have."""
        if ranks not in self._masks:
            if len(ranks) == 1 and min(self._rows_N) == 0:
                self._masks[ranks] = None
            else:
                owner_R = torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(ranks))
                own_NR = torch.tensor(self._rows_N)[:, None] == owner_R
                self._masks[ranks] = own_NR.to(device, dtype)[:, None]
        return self._masks[ranks]


def _stack(parts: list[Factors | None]) -> _Stacked:
    """One pair of matrices of several adapters' factors for a layer."""
    there = [part for part in parts if part is not None]
    # Turned and in one block each: so thin products with few rows are fastest.
    down_IR = torch.cat([part.down_RI for part in there]).t().contiguous()
    up_RO = torch.cat([part.up_OR for part in there], dim=1).t().contiguous()
    scales = None
    if any(part.scale_O is not None for part in there):
        plain_O = up_RO.new_ones(up_RO.shape[1])
        own = [plain_O if part is None or part.scale_O is None else part.scale_O for part in parts]
        # The first is that of rows without an adapter.
        scales = torch.stack([plain_O, *own])
    ranks = tuple(0 if part is None else part.down_RI.shape[0] for part in parts)
    return _Stacked(down_IR, up_RO, scales, ranks)
