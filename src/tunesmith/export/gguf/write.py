"""Write a model folder as one GGUF file, tensor by tensor: no more than one of them is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType, get_tensor_name_map
from gguf.constants import MODEL_ARCH_NAMES
from gguf.quants import quantize
from numpy.typing import NDArray
from safetensors import safe_open

from tunesmith.errors import ModelError
from tunesmith.export.gguf.families import FAMILIES, Weight, extra_weights, laid_out, refusal, write_numbers
from tunesmith.export.gguf.tokenizer import write_tokenizer
from tunesmith.models.check import read_config

# The form of matrices; vectors stay float32. Embeddings and the output matrix are kept in eight bits where the others
# have fewer: a token's row is used alone there, so that its error meets nothing that would even it out.
_MATRICES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q5_1": (GGMLQuantizationType.Q5_1, LlamaFileType.MOSTLY_Q5_1),
    "q5_0": (GGMLQuantizationType.Q5_0, LlamaFileType.MOSTLY_Q5_0),
    "q4_1": (GGMLQuantizationType.Q4_1, LlamaFileType.MOSTLY_Q4_1),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
_EMBEDDINGS = ("token_embd.weight", "output.weight")
_FEW_BITS = ("q5_1", "q5_0", "q4_1", "q4_0")
_PHI3_TOKENS = ("<unk>", "<s>", "</s>", "<|endoftext|>")
# Tensors of older files that are computed and not learned.
_COMPUTED = ("rotary_emb.inv_freq",)


@dataclass(frozen=True)
class _Tensor:
    """One tensor of the file: its name there, its shape, its form, and what reads it."""

    name: str
    shape: tuple[int, ...]
    form: GGMLQuantizationType
    read: Callable[[], Weight]


def require_writable(folder: Path) -> None:
    """Refuse models that llama.cpp would read wrongly.

    Raises:
        ModelError: ``export.gguf_family``.
    """
    reason = refusal(read_config(folder))
    if reason is not None:
        raise ModelError(
            "this model cannot be written as a GGUF file",
            code="export.gguf_family",
            place=str(folder),
            value=reason,
            hint="export it to merged, and convert that with llama.cpp's own program where it knows the model",
        )


def write_gguf(folder: Path, tokenizer: Any, path: Path, precision: str, name: str) -> list[str]:
    """Write weights, numbers, tokenizer and chat template of a model folder.

    Args:
        folder: A whole model in safetensors.
        tokenizer: Its tokenizer.
        path: The file to write.
        precision: A key of the forms above, such as ``q4_0``.
        name: What the file says that it is.

    Returns:
        What was done otherwise than asked, in words.

    Raises:
        ModelError: ``export.gguf_family``, ``export.gguf_tokenizer``, ``export.gguf_tensor``.
    """
    require_writable(folder)
    config = read_config(folder)
    tensors = list(_tensors(folder, config, precision))
    architecture = FAMILIES[config.model_type].architecture
    writer = GGUFWriter(path, MODEL_ARCH_NAMES[architecture])
    writer.add_type("model")
    writer.add_name(_safe_name(name, config.model_type, tokenizer))
    writer.add_file_type(_MATRICES[precision][1])
    writer.add_quantization_version(2)
    write_numbers(config, writer)
    write_tokenizer(tokenizer, int(config.vocab_size), writer)
    for tensor in tensors:
        _announce(writer, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        for tensor in tensors:
            writer.write_tensor_data(_in_form(tensor.read(), tensor.form))
    finally:
        writer.close()
    whole = [one.name for one in tensors if one.form == GGMLQuantizationType.F16]
    if precision in (*_FEW_BITS, "q8_0") and whole:
        return [f"{len(whole)} matrices have rows that do not divide into blocks of 32 numbers and stay f16"]
    return []


def _safe_name(name: str, family: str, tokenizer: Any) -> str:
    """llama.cpp treats special tokens of models otherwise whose name says phi-3, and fails where they are missing."""
    has_tokens = set(_PHI3_TOKENS) <= tokenizer.get_vocab().keys()
    says_phi3 = any(word in name.lower() for word in ("phi-3", "phi3"))
    if says_phi3 and not has_tokens:
        return "model"
    return f"phi-3 {name}" if family == "phi3" and has_tokens and not says_phi3 else name


def _tensors(folder: Path, config: Any, precision: str) -> Iterator[_Tensor]:
    names = get_tensor_name_map(FAMILIES[config.model_type].architecture, int(config.num_hidden_layers))
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no dictionary
                if name.endswith(_COMPUTED) or (name == "lm_head.weight" and config.tie_word_embeddings):
                    continue
                own = names.get_name(name, try_suffixes=(".weight", ".bias"))
                if own is None:
                    raise ModelError(
                        "llama.cpp has no place for a tensor of this model",
                        code="export.gguf_tensor",
                        place=str(file),
                        value=name,
                    )
                shape = tuple(opened.get_slice(name).get_shape())
                yield _Tensor(own, shape, _form(own, shape, precision), _reader(file, name, config))
    for name, weight in extra_weights(config):
        yield _Tensor(name, weight.shape, GGMLQuantizationType.F32, lambda weight=weight: weight)  # type: ignore[misc]


def _reader(file: Path, name: str, config: Any) -> Callable[[], Weight]:
    def read() -> Weight:
        with safe_open(file, framework="pt") as opened:
            weight: Weight = opened.get_tensor(name).to(torch.float32).numpy()
        return laid_out(config, name, weight)

    return read


def _form(name: str, shape: tuple[int, ...], precision: str) -> GGMLQuantizationType:
    if len(shape) < 2:
        return GGMLQuantizationType.F32
    form = _MATRICES["q8_0" if name in _EMBEDDINGS and precision in _FEW_BITS else precision][0]
    block, _ = GGML_QUANT_SIZES[form]
    return form if shape[-1] % block == 0 else GGMLQuantizationType.F16


def _announce(writer: GGUFWriter, tensor: _Tensor) -> None:
    """Say which tensor comes; the numbers follow when all are said."""
    block, block_bytes = GGML_QUANT_SIZES[tensor.form]
    size_bytes = int(np.prod(tensor.shape)) // block * block_bytes
    writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size_bytes, raw_dtype=tensor.form)


def _in_form(weight: Weight, form: GGMLQuantizationType) -> NDArray[Any]:
    if form == GGMLQuantizationType.F32:
        return np.ascontiguousarray(weight)
    if form == GGMLQuantizationType.F16:
        limit = float(np.finfo(np.float16).max)
        if not np.isfinite(weight).all() or float(np.abs(weight).max(initial=0)) > limit:
            raise ModelError(
                "a weight is too large for float16",
                code="export.gguf_range",
                value=f"{float(np.abs(weight).max()):.3g}",
                hint="choose --precision bf16 or q8_0",
            )
        return np.ascontiguousarray(weight.astype(np.float16))
    return np.ascontiguousarray(quantize(weight, form))
