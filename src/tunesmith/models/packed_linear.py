"""Linear layers whose weights lie in the order in which a processor reads them, for batches of a few rows.

A plain product of a few rows with a weight copies the weight into that order each time, which takes longer than the
product. oneDNN can keep it so. The weight takes the same memory and comes back exactly; there are no gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class PackedLinear(nn.Module):
    """Does what a linear layer did that was there before."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.bias = layer.bias
        # A plain attribute: no library that walks over parameters could do anything with it.
        self._packed = _pack(layer.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """``[..., in_features]`` to ``[..., out_features]``."""
        return _product(inputs, self._packed, self.bias)

    def plain_weight(self) -> torch.Tensor:
        """The weight as it was, ``[out_features, in_features]``."""
        weight: torch.Tensor = self._packed.to_dense()
        return weight


def pack_linear_layers(model: Any) -> int:
    """Pack every plain linear layer of a model in eval mode, in place; how many that were.

    Nothing is done where it would not help or cannot be: on GPUs, in other types than float32, to quantized layers, and
    with builds of torch that lack oneDNN.
    """
    count = 0
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and _can_pack(layer.weight):
                setattr(parent, name, PackedLinear(layer))
                count += 1
    return count


def _can_pack(weight: torch.Tensor) -> bool:
    backend: Any = torch.backends.mkldnn
    there = backend.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    return there and weight.device.type == "cpu" and weight.dtype == torch.float32


def _pack(weight: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
    return packed


def _product(inputs: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    outputs: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return outputs
