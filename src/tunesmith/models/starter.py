"""Turn a GGUF file into a normal model folder: fp32 safetensors, tokenizer, chat template, generation settings."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.models.quiet import quiet_libraries
from tunesmith.models.saving import plain_os_errors

# How llama.cpp's names of pre-tokenizers split text, where Transformers' reader of GGUF files does not know it.
_SPLITS_DIGITS = {"smollm"}


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantize a GGUF file and write it as an fp32 model folder that loads like any model.

    Args:
        gguf: The file; it holds weights, tokenizer and chat template.
        folder: An existing folder to write into. A caller that must not leave half a folder hands in a scratch one.

    Raises:
        ModelError: ``model.gguf``: the file is broken, or of an architecture that cannot be read.
        OSError: The folder cannot be written.
    """
    # The reader draws a bar of its own that no setting turns off.
    with quiet_libraries(), contextlib.redirect_stderr(io.StringIO()):
        model, tokenizer = _read(gguf)
        _remove_quantization_marks(model)
        with plain_os_errors():
            tokenizer.save_pretrained(folder)
            model.save_pretrained(folder)


def _read(gguf: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
        _mend_digit_splitting(gguf, tokenizer)
    except Exception as error:
        # The reader of GGUF files checks little: a broken file ends in whatever error comes first.
        raise ModelError(
            "the GGUF file cannot be read",
            code="model.gguf",
            place=str(gguf),
            value=f"{type(error).__name__}: {str(error).strip()[:200]}",
            hint="remove the file and fetch the model again, or give a folder with safetensors",
        ) from error
    return model, tokenizer


def _mend_digit_splitting(gguf: Path, tokenizer: Any) -> None:
    """Split digits from what precedes them, as the model's own tokenizer does.

    Transformers reads vocabulary and merges but not the name of the pre-tokenizer, so spaces before a number would
    become other tokens than those that the model was trained on.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() in _SPLITS_DIGITS:
        splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)


def _remove_quantization_marks(model: Any) -> None:
    """Make a dequantized model an ordinary one; with the marks Transformers refuses to save it."""
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    model.is_quantized = False
