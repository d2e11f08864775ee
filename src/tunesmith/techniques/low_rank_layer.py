"""A linear layer with LoRA whose products are our own; weights, names, files and merging are those of the PEFT library.

    config = LoraConfig(...)
    use_own_layers(config)              # plain linear layers become LowRankLinear
    wrapped = get_peft_model(model, config)
    join_siblings(wrapped)              # layers that read the same input compute together

Whatever is not plain LoRA on frozen weights, whole or in four bits (DoRA, dropout, weights in eight bits, an adapter
that is merged or turned off) goes the library's own way. So does every model that is not being trained: what is
measured is then, to the last bit, what the library computes when it loads the saved adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import nn

from tunesmith.models.quantized import is_packed, plain_weight
from tunesmith.models.running import running_pack
from tunesmith.techniques.low_rank_product import Factors, Span, low_rank_product

# Layers of a block that are called with the same tensor, one after another, in families whose blocks are tested.
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("query", "key", "value"))


class LowRankLinear(PeftLinear):
    """PEFT's layer, computed by :func:`tunesmith.techniques.low_rank_product.low_rank_product`."""

    siblings: Siblings | None = None

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The layer's output ``[..., outputs]`` for inputs ``[..., inputs]``."""
        if args or kwargs or self.siblings is None or not is_plain(self):
            out: torch.Tensor = super().forward(x, *args, **kwargs)
            return out
        return self.siblings.output(self, x)


class Siblings:
    """Layers that read the same input: the first one asked computes for all, the others take what is theirs.

    Where hooks turn out to hand each layer a tensor of its own, every layer computes for itself from then on.
    """

    def __init__(self, members: Sequence[LowRankLinear]) -> None:
        self.members = tuple(members)
        self._input: torch.Tensor | None = None
        self._outputs: dict[int, torch.Tensor] = {}
        self._asked_first: LowRankLinear | None = None
        self._share = True

    def output(self, member: LowRankLinear, inputs: torch.Tensor) -> torch.Tensor:
        """The output of one layer. Nothing is kept once every layer has its own."""
        if self._input is not inputs or id(member) not in self._outputs:
            # What is left over from a pass that broke off is no such sign: the same layer is asked first again.
            if self._outputs and member is not self._asked_first:
                self._share = False
            together = self.members if self._share and all(map(is_plain, self.members)) else (member,)
            # Checkpointing breaks the second pass of a layer off where nothing more is needed: then nothing is kept, or
            # the input would hold all that it was made of.
            self._input, self._asked_first = None, member
            self._outputs = dict(zip(map(id, together), _compute(together, inputs), strict=True))
            self._input = inputs
        out = self._outputs.pop(id(member))
        if not self._outputs:
            self._input = None
        return out


def use_own_layers(config: LoraConfig) -> None:
    """Let the library build :class:`LowRankLinear` for linear layers, quantized ones too."""
    config._register_custom_module({nn.Linear: LowRankLinear})


def join_siblings(model: nn.Module) -> None:
    """Tell each layer of our own with which others it computes."""
    for parent in model.modules():
        own = {name: child for name, child in parent.named_children() if isinstance(child, LowRankLinear)}
        joined = [[own.pop(name) for name in names if name in own] for names in SIBLINGS]
        for members in (*joined, *([alone] for alone in own.values())):
            siblings = Siblings(members)
            for member in members:
                member.siblings = siblings


def is_plain(layer: LowRankLinear) -> bool:
    """Whether the layer computes what :func:`low_rank_product` does, as it stands now."""
    if not layer.training or layer.disable_adapters or layer.merged or layer.lora_variant or layer.fan_in_fan_out:
        return False
    base = layer.get_base_layer()
    if not (type(base) is nn.Linear or is_packed(base)) or base.weight.requires_grad or any(layer.lora_bias.values()):
        return False
    # DeepSpeed's third stage, which marks weights so, gathers them when their own module is called.
    if hasattr(base.weight, "ds_id"):
        return False
    return all(getattr(drop, "p", 0.0) == 0 for drop in layer.lora_dropout.values())


def _compute(layers: Sequence[Any], inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    bases = [layer.get_base_layer() for layer in layers]
    names, spans = _adapters(layers[0], inputs)
    adapters = [
        Factors(
            [layer.lora_A[name].weight for layer in layers],
            [layer.lora_B[name].weight for layer in layers],
            tuple(layer.scaling[name] for layer in layers),
        )
        for name in names
    ]
    weights = [partial(plain_weight, base) if is_packed(base) else base.weight for base in bases]
    return low_rank_product(inputs, weights, [base.bias for base in bases], adapters, spans)


def _adapters(layer: LowRankLinear, inputs: torch.Tensor) -> tuple[list[str], list[Span] | None]:
    """Names of the adapters, and the tokens of each: as the running pack says, else the active one for all."""
    pack, tokens = running_pack(), inputs.numel() // inputs.shape[-1]
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if pack is None or pack.tokens != tokens or all(segment.adapter is None for segment in pack.segments):
        return active, [Span(0, tokens, at) for at in range(len(active))]
    names: list[str] = []
    spans: list[Span] = []
    for segment in pack.segments:
        for name in active if segment.adapter is None else [segment.adapter]:
            if name not in names:
                names.append(name)
            at = names.index(name)
            if spans and spans[-1].adapter == at and spans[-1].end == segment.start:
                spans[-1] = Span(spans[-1].start, segment.end, at)
            else:
                spans.append(Span(segment.start, segment.end, at))
    return names, spans
