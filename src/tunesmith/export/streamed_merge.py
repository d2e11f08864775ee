"""Work an adapter into a model's weights file by file: in memory are the adapter and one file of the base.

The model is built without weights, and the PEFT library puts the adapter on it. When a file of the base is read, each
layer that the adapter changes gets its own weights for a moment, merges, and gives them back. So a model that fits
into memory once, or not even that, can be merged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from tunesmith.errors import ModelError
from tunesmith.export.source import Source
from tunesmith.models.adapters import method_of
from tunesmith.models.check import read_config
from tunesmith.models.quiet import quiet_libraries
from tunesmith.runs.atomic import read_json, write_json
from tunesmith.techniques.peft_methods import METHODS
from tunesmith.techniques.saving import telling_save_errors

# Methods that split the base's weights when they are put on a model, which needs them all. Of every other method the
# saved adapter is all that a layer needs beside its own weights; a test merges each of them both ways.
FROM_WHOLE_MODEL = frozenset({"adamss", "frod", "osf", "psoft"})
# What an adapter can bring besides changes of layers, by the key of its config.
_BESIDE_LAYERS = ("modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication")
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class LayerMerges:
    """The layers that an adapter changes, by their names in the base model, without their weights."""

    layers: Mapping[str, Any]

    def tensor_names(self) -> dict[str, str]:
        """Each tensor that a layer needs, with the layer's name."""
        return {
            f"{name}.{own}": name
            for name, layer in self.layers.items()
            for own, _ in layer.get_base_layer().named_parameters(recurse=False)
        }

    @torch.no_grad()
    def merged(self, name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors of a layer, by their own names, with the adapter worked in; computed in float32.

        Raises:
            ModelError: ``model.merge``: a merged weight would not be finite.
        """
        layer = self.layers[name]
        base = layer.get_base_layer()
        empty = dict(base.named_parameters(recurse=False))
        for own, tensor in tensors.items():
            setattr(base, own, nn.Parameter(tensor.to(torch.float32), requires_grad=False))
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise ModelError(
                "the adapter cannot be merged", code="model.merge", place=name, value=str(error)
            ) from error
        # Some methods put another layer in place of the base's, so it is asked for anew.
        found = {own: tensor.data for own, tensor in layer.get_base_layer().named_parameters(recurse=False)}
        for own, tensor in empty.items():
            setattr(base, own, tensor)
        layer.merged_adapters = []
        return found


def plan_streamed_merge(source: Source) -> LayerMerges | str:
    """How the adapter is worked in layer by layer, or in words why the whole model has to be loaded for it."""
    if source.adapter is None:
        return "there is no adapter"
    if source.kind != "text":
        return "the adapter brings a head"
    if source.quantization is not None:
        return "the adapter was trained on weights in fewer bits, which are made plain first"
    method = method_of(source.adapter)
    if method in FROM_WHOLE_MODEL or method not in {"lora", *METHODS}:
        return f"what {method} adds to a layer is computed from the whole model"
    config = read_json(source.adapter / "adapter_config.json")
    beside = [key for key in _BESIDE_LAYERS if config.get(key)]
    beside += ["bias"] if config.get("bias", "none") != "none" else []
    if beside:
        return f"the adapter brings more than changes of layers ({', '.join(beside)})"
    found = LayerMerges(_layers_without_weights(source))
    missing = found.tensor_names().keys() - _tensors_of(source.folder).keys()
    if missing:
        return f"the base's files call {min(missing)} otherwise"
    return found


def _layers_without_weights(source: Source) -> Mapping[str, Any]:
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import AutoModelForCausalLM

    assert source.adapter is not None
    with quiet_libraries():
        with torch.device("meta"):
            auto: Any = AutoModelForCausalLM
            empty = auto.from_config(read_config(source.folder), dtype=torch.float32)
        _without_memory(empty)
        adapted = PeftModel.from_pretrained(empty, str(source.adapter), local_files_only=True)
    return {
        name.removeprefix("base_model.model."): module
        for name, module in adapted.named_modules()
        if isinstance(module, BaseTunerLayer)
    }


def _without_memory(model: nn.Module) -> None:
    """Weights of the right shapes that are one zero each; on no device at all the library would not keep an adapter."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            hollow = torch.zeros((), dtype=weight.dtype).expand(weight.shape)
            setattr(module, name, nn.Parameter(hollow, requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.zeros((), dtype=buffer.dtype).expand(buffer.shape))


def write_streamed_merge(
    source: Source, merges: LayerMerges, folder: Path, dtype: torch.dtype | None, say: Callable[[int, int], None]
) -> None:
    """Write the files of the base under their own names, with the adapter worked in.

    Args:
        source: What is exported.
        merges: See :func:`plan_streamed_merge`.
        folder: Where files go.
        dtype: The type of all weights; None for that of each tensor of the base.
        say: Told how many files are done, of how many.

    Raises:
        ModelError: ``model.merge``.
        OutputError: The folder cannot be written or the disk is full.
    """
    wanted, places = merges.tensor_names(), _tensors_of(source.folder)
    files = sorted(set(places.values()))
    total = 0
    for done, file in enumerate(files, 1):
        with safe_open(source.folder / file, framework="pt") as opened:
            names = list(opened.keys())
            tensors = {name: opened.get_tensor(name) for name in names if name not in wanted}
            layers = dict.fromkeys(wanted[name] for name in names if name in wanted)
            for layer in layers:
                tensors |= _merged_in_file(source, merges, layer, names, places)
            if dtype is not None:
                tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        total += sum(tensor.nbytes for tensor in tensors.values())
        with telling_save_errors(folder):
            save_file(tensors, folder / file, metadata={"format": "pt"})
        say(done, len(files))
    if (source.folder / _INDEX).is_file():
        index = read_json(source.folder / _INDEX)
        index["metadata"] = {**index.get("metadata", {}), "total_size": total}
        write_json(folder / _INDEX, index)


def _merged_in_file(
    source: Source, merges: LayerMerges, layer: str, here: list[str], places: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """What one file holds of a merged layer; the layer's other tensors may lie in another file."""
    needed = [name for name, owner in merges.tensor_names().items() if owner == layer]
    tensors = {}
    for name in needed:
        with safe_open(source.folder / places[name], framework="pt") as opened:
            tensors[name] = opened.get_tensor(name)
    merged = merges.merged(layer, {name.removeprefix(f"{layer}."): tensor for name, tensor in tensors.items()})
    return {
        name: merged[name.removeprefix(f"{layer}.")].to(tensor.dtype).contiguous()
        for name, tensor in tensors.items()
        if name in here
    }


def _tensors_of(folder: Path) -> dict[str, str]:
    """The file of each tensor."""
    found: dict[str, str] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found |= dict.fromkeys(opened.keys(), file.name)
    return found
