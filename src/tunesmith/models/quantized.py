"""Frozen weights in fewer bits, through the bitsandbytes library: how to load them, and how to get plain ones back."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tunesmith.catalog.heads import HEAD_LAYERS
from tunesmith.errors import missing_extra
from tunesmith.runs.atomic import read_json


@dataclass(frozen=True)
class Quantization:
    """Frozen weights in fewer bits: NF4 (Dettmers et al. 2023; ``double`` quantizes its scales too), or int8.

    ``as_numbers`` keeps the bytes of NF4 in a tensor of the type of the other weights, the only one that can be cut
    over ranks; what they stand for is the same.
    """

    kind: Literal["nf4", "int8"]
    double: bool = True
    as_numbers: bool = False


def load_options(
    quantization: Quantization | None, dtype: torch.dtype, device: str, *, with_head: bool = False
) -> dict[str, Any]:
    """What Transformers' ``from_pretrained`` needs to load linear layers in fewer bits; nothing without quantization.

    Products are computed in ``dtype``. The output matrix and the embeddings stay whole, as the library leaves them; so
    does a head, which the library would quantize where it has a bias, and which learns.

    Raises:
        UsageError: ``usage.missing_extra``: bitsandbytes is not installed.
    """
    if quantization is None:
        return {}
    require_bitsandbytes()
    from transformers import BitsAndBytesConfig

    untyped: Any = BitsAndBytesConfig
    whole = {"llm_int8_skip_modules": list(HEAD_LAYERS)} if with_head else {}
    if quantization.kind == "nf4":
        config = untyped(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=quantization.double,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_storage=dtype if quantization.as_numbers else torch.uint8,
            **whole,
        )
    else:
        config = untyped(load_in_8bit=True, **whole)
    _quiet_bitsandbytes()
    return {"quantization_config": config, "device_map": {"": device}}


def keep_numbers(model: nn.Module) -> None:
    """Keep bitsandbytes from packing four-bit weights anew for evaluation on some processors.

    That packing is faster, but rounds the scales once more: the model that is measured would not be the one that is
    trained, and a training would depend on whether something was measured before it.
    """
    for layer in model.modules():
        if _is_quantized_layer(layer) and hasattr(layer, "support_avx512bf16_for_cpu"):
            untyped: Any = layer
            untyped.support_avx512bf16_for_cpu = False


def quantization_of(adapter: Path) -> Quantization | None:
    """How the base of an adapter was loaded when it was trained, by the resolved values that lie beside it.

    With it, the tuned model is the one that was measured. Adapters of other programs say nothing and get whole weights.
    """
    path = adapter / "resolved.json"
    if not path.is_file():
        return None
    technique = read_json(path).get("portable", {}).get("technique", {}).get("value", {})
    if "quantization" not in technique:
        return None
    return Quantization(technique["quantization"], bool(technique["double_quantization"]))


def require_bitsandbytes() -> None:
    """Refuse where bitsandbytes is not installed.

    Raises:
        UsageError: ``usage.missing_extra``.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise missing_extra("quantized weights need the package bitsandbytes", "quantization", place="technique")


def _quiet_bitsandbytes() -> None:
    """It logs on import that a package of faster kernels is missing, which is not a thing that a user must act on."""
    logger = logging.getLogger("bitsandbytes")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        import bitsandbytes  # noqa: F401
    finally:
        logger.setLevel(before)


def is_quantized(model: nn.Module) -> bool:
    """Whether a model has layers in fewer bits."""
    return any(_is_quantized_layer(module) for module in model.modules())


@torch.no_grad()
def dequantize(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Put plain linear layers in place of the quantized ones, with the very numbers that they stand for.

    Changed in place. The rounding that quantization did stays; a model that is loaded whole has other weights.
    """
    for name, layer in list(model.named_modules()):
        if not _is_quantized_layer(layer):
            continue
        bias = layer.bias
        plain = nn.Linear(layer.in_features, layer.out_features, bias=bias is not None, device="meta")
        plain.weight = nn.Parameter(plain_weight(layer).to(dtype), requires_grad=False)
        if bias is not None:
            plain.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, plain)
    untyped: Any = model
    if getattr(untyped, "config", None) is not None and hasattr(untyped.config, "quantization_config"):
        del untyped.config.quantization_config
    for mark in ("is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit"):
        if getattr(untyped, mark, False):
            setattr(untyped, mark, False)
    for mark in ("hf_quantizer", "quantization_method"):
        # By these the library refuses to cast a model, or to save it.
        if mark in vars(untyped):
            delattr(untyped, mark)
    return model


def _is_quantized_layer(module: nn.Module) -> bool:
    return type(module).__name__ in ("Linear4bit", "Linear8bitLt") and type(module).__module__.startswith(
        "bitsandbytes"
    )


def is_packed(layer: nn.Module) -> bool:
    """Whether a linear layer has its weight in four bits, and multiplies with the plain one that it stands for."""
    return _is_quantized_layer(layer) and type(layer).__name__ == "Linear4bit"


def plain_weight(layer: Any) -> torch.Tensor:
    """The weight of a linear layer, ``[outputs, inputs]``; of a quantized one that which it stands for."""
    if not _is_quantized_layer(layer):
        own: torch.Tensor = layer.weight
        return own
    import bitsandbytes

    weight = layer.weight
    if type(layer).__name__ == "Linear4bit":
        # A weight that was gathered from the ranks is a plain tensor; the layer knows its scales as well.
        state = getattr(weight, "quant_state", None) or layer.quant_state
        plain: torch.Tensor = bitsandbytes.functional.dequantize_4bit(weight.data, state)
        return plain
    scales = weight.SCB if weight.SCB is not None else layer.state.SCB
    plain8: torch.Tensor = bitsandbytes.functional.int8_vectorwise_dequant(weight.data, scales)
    return plain8
