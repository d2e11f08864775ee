"""Low-rank adapters read from disk as plain matrices, and why some adapters are not of that kind.

The factors of LoRA (arXiv 2106.09685), with the scaling of rank-stabilised LoRA (arXiv 2312.03732) where the adapter
asks for it, and DoRA's magnitudes (arXiv 2402.09353) as one factor for each output.

Shape suffixes: R rank, I inputs of a layer, O outputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ModelError
from tunesmith.models.packed_linear import PackedLinear
from tunesmith.models.quantized import plain_weight
from tunesmith.runs.atomic import read_json

WEIGHTS = "adapter_model.safetensors"
_PART = re.compile(r"^base_model\.model\.(?P<layer>.+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)(\.weight)?$")
# Ways to begin that leave the base as it is; others train beside a changed base, which only PEFT can make.
_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")
# What of an adapter's config is read here, or changes nothing once it is trained.
_UNDERSTOOD = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_dora",
        "use_rslora",
    }
)


@dataclass(frozen=True)
class Factors:
    """What an adapter adds to a layer: ``scale_O * (x W^T) + x down^T up^T`` in place of ``x W^T``.

    ``up_OR`` holds the scaling, and DoRA's factors too; ``scale_O`` is None for plain LoRA.
    """

    down_RI: torch.Tensor
    up_OR: torch.Tensor
    scale_O: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class LowRankAdapter:
    """The factors of every layer that an adapter changes, by the layer's name in the model."""

    layers: Mapping[str, Factors]

    @property
    def memory_bytes(self) -> int:
        """What the factors take."""
        return sum(
            part.numel() * part.element_size()
            for factors in self.layers.values()
            for part in (factors.down_RI, factors.up_OR, factors.scale_O)
            if part is not None
        )


def why_not_low_rank(folder: Path) -> str | None:
    """Why a saved adapter is more than low-rank factors beside layers; None where it is not.

    Raises:
        ModelError: The folder holds no adapter.
    """
    config = _config(folder)
    method = str(config.get("peft_type", "")).upper()
    if method != "LORA":
        return f"it is of the method {method or 'unknown'}"
    beginning = config.get("init_lora_weights", True)
    if beginning not in _PLAIN_BEGINNINGS:
        return f"it begins with {beginning}, which changes the base"
    for key, meaning in (
        ("modules_to_save", "it brings whole layers"),
        ("trainable_token_indices", "it brings tokens"),
        ("lora_bias", "it brings biases"),
        ("alora_invocation_tokens", "it begins at a token"),
        ("layer_replication", "it repeats layers"),
    ):
        if config.get(key):
            return meaning
    if config.get("bias", "none") != "none":
        return "it brings biases"
    strange_keys = sorted(key for key, value in config.items() if value and key not in _UNDERSTOOD)
    if strange_keys:
        return f"its config says more than is read here: {strange_keys[0]}"
    with _opened(folder) as weights:
        strange = [name for name in weights.keys() if _PART.match(name) is None]  # noqa: SIM118  not a mapping
    return f"it has weights that are not factors: {strange[0]}" if strange else None


def read_low_rank(folder: Path, model: nn.Module, *, dtype: torch.dtype = torch.float32) -> LowRankAdapter:
    """Read an adapter that :func:`why_not_low_rank` has nothing against, on the model's device.

    Args:
        folder: ``adapter_config.json`` and the weights.
        model: The base, without any adapter.
        dtype: Type of the factors.

    Raises:
        ModelError: The adapter does not fit the model.
    """
    config = _config(folder)
    found: dict[str, dict[str, torch.Tensor]] = {}
    with _opened(folder) as weights:
        for name in weights.keys():  # noqa: SIM118
            match = _PART.match(name)
            assert match is not None
            found.setdefault(match["layer"], {})[match["part"]] = weights.get_tensor(name)
    layers = dict(model.named_modules())
    read: dict[str, Factors] = {}
    for name, parts in found.items():
        layer = layers.get(name)
        _require_fit(folder, name, layer, parts, decomposed=bool(config.get("use_dora")))
        scaling = _scaling(config, name, parts["lora_A"].shape[0])
        read[name] = _factors(layer, parts, scaling, dtype)
    return LowRankAdapter(read)


def _factors(layer: Any, parts: Mapping[str, torch.Tensor], scaling: float, dtype: torch.dtype) -> Factors:
    packed = isinstance(layer, PackedLinear)
    device = torch.device("cpu") if packed else layer.weight.device
    exact = torch.promote_types(dtype, torch.float32)
    down_RI, up_OR = (parts[key].to(device, exact) for key in ("lora_A", "lora_B"))
    up_OR = up_OR * scaling
    magnitude_O = parts.get("lora_magnitude_vector")
    if magnitude_O is None:
        return Factors(down_RI.to(dtype), up_OR.to(dtype))
    weight_OI = _weight(layer)
    norms_O = torch.linalg.norm(weight_OI.to(exact) + up_OR @ down_RI, dim=1)
    scale_O = magnitude_O.to(device, exact).flatten() / norms_O
    return Factors(down_RI.to(dtype), (scale_O[:, None] * up_OR).to(dtype), scale_O.to(dtype))


def _weight(layer: Any) -> torch.Tensor:
    """A layer's weight in plain numbers, ``[O, I]``."""
    if isinstance(layer, PackedLinear):
        return layer.plain_weight()
    return layer.weight.T if isinstance(layer, Conv1D) else plain_weight(layer)


def _require_fit(folder: Path, name: str, layer: Any, parts: Mapping[str, torch.Tensor], *, decomposed: bool) -> None:
    wanted = {"lora_A", "lora_B", "lora_magnitude_vector"} if decomposed else {"lora_A", "lora_B"}
    fault = None
    if layer is None:
        fault = "the model has no such layer"
    elif not wanted <= set(parts):
        fault = "a factor is missing"
    elif isinstance(layer, (nn.Linear, PackedLinear, Conv1D)):
        outputs, inputs = (layer.nf, layer.nx) if isinstance(layer, Conv1D) else (layer.out_features, layer.in_features)
        shape = (parts["lora_B"].shape[0], parts["lora_A"].shape[1])
        if shape != (outputs, inputs):
            fault = f"the layer has {outputs} x {inputs}, the adapter {shape[0]} x {shape[1]}"
        elif parts["lora_A"].shape[0] != parts["lora_B"].shape[1]:
            fault = f"its factors have ranks of {parts['lora_A'].shape[0]} and {parts['lora_B'].shape[1]}"
    else:
        fault = f"the layer is a {type(layer).__name__}, not a linear one"
    if fault is not None:
        raise ModelError(
            "the adapter cannot be put on the model",
            code="model.adapter",
            place=str(folder),
            value=f"{name}: {fault}",
            hint="the adapter must have been trained from this very model",
        )


def _scaling(config: Mapping[str, Any], layer: str, rank: int) -> float:
    alpha = float(_of_layer(config.get("alpha_pattern") or {}, layer, config.get("lora_alpha", 8)))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of_layer(pattern: Mapping[str, Any], layer: str, otherwise: Any) -> Any:
    """The value of the first key that names the layer, whole or by its end, as PEFT reads such patterns."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", layer):
            return value
    return otherwise


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = read_json(folder / "adapter_config.json")
    except (OSError, ValueError) as error:
        raise ModelError(
            "the folder holds no adapter", code="model.adapter", place=str(folder), value=str(error)[:200]
        ) from error
    return config


def _opened(folder: Path) -> Any:
    try:
        return safe_open(folder / WEIGHTS, framework="pt")
    except Exception as error:
        # The library raises errors of its own, for files that are missing, cut or not of its format.
        raise ModelError(
            "the adapter's weights cannot be read",
            code="model.adapter",
            place=str(folder / WEIGHTS),
            value=str(error)[:200],
        ) from error
