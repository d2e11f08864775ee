"""LoftQ: adapters begin as the part of the weights that four bits lose (Li et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import safe_open

from tunesmith.errors import ModelError
from tunesmith.models.quantized import plain_weight
from tunesmith.techniques.adapter import ADAPTER


@torch.no_grad()
def start_from_loss_of_bits(model: PeftModel) -> None:
    """Set ``s B A`` of each adapter to the best approximation, of its rank, of what quantization took from the weight.

    The whole weights are read once more from the model's folder, one layer at a time. Layers that quantization left
    whole lost nothing and begin as nothing.

    Raises:
        ModelError: ``model.loftq``: the whole weight of a layer is not in the folder.
    """
    folder = Path(str(cast(Any, model).config._name_or_path))
    files = _files_of(folder)
    base_prefix = "base_model.model."
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        layer: Any = module
        if not hasattr(layer.get_base_layer().weight, "quant_state"):
            continue
        tensor = _name_in(files, f"{name.removeprefix(base_prefix)}.weight")
        if tensor not in files:
            raise ModelError(
                "loftq needs the whole weight of a layer beside its four bits",
                code="model.loftq",
                place=tensor,
                value=str(folder),
                hint="set technique.initialization=default",
            )
        with safe_open(files[tensor], framework="pt") as opened:
            whole = opened.get_tensor(tensor).float()
        lost = whole - plain_weight(layer.get_base_layer()).float().cpu()
        _begin(layer, lost / layer.scaling[ADAPTER])


def _begin(layer: Any, wanted: torch.Tensor) -> None:
    down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    left, values, right = torch.linalg.svd(wanted, full_matrices=False)
    rank = down.shape[0]
    roots = values[:rank].sqrt()
    down.copy_((roots[:, None] * right[:rank]).to(down))
    up.copy_((left[:, :rank] * roots).to(up))


def _name_in(files: Mapping[str, Path], tensor: str) -> str:
    """A tensor's name in the folder: classes with a head keep the model below it under a name of their own."""
    if tensor in files:
        return tensor
    below = tensor.partition(".")[2]
    return next((name for name in files if below in (name, name.partition(".")[2])), tensor)


def _files_of(folder: Path) -> dict[str, Path]:
    """The file of each tensor of a model folder."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as opened:
            found |= dict.fromkeys(opened.keys(), path)
    return found
