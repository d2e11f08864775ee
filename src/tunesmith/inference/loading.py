"""Load a model folder and adapters for inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.errors import ModelError
from tunesmith.models.new_tokens import add_rows_up_to, token_ids_of_adapter, tokenizer_folder
from tunesmith.models.quantized import Quantization, keep_numbers, load_options, quantization_of
from tunesmith.models.quiet import quiet_libraries


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode (wrapped by PEFT where there are adapters) and its tokenizer."""

    model: Any
    tokenizer: Any


def load(folder: Path, adapters: Mapping[str, Path], dtype: torch.dtype) -> Loaded:
    """Load weights once and every adapter beside them, under its key in ``adapters``.

    Raises:
        ModelError: The folder or an adapter cannot be loaded, or two adapters bring new tokens.
    """
    bringing = [adapter for adapter in adapters.values() if tokenizer_folder(folder, adapter) != folder]
    if len(bringing) > 1:
        raise ModelError(
            "adapters that bring new tokens each have a tokenizer of their own",
            code="model.tokenizers",
            place=str(bringing[1]),
            hint="load them one at a time",
        )
    place = folder
    try:
        tokenizer = AutoTokenizer.from_pretrained(bringing[0] if bringing else folder, local_files_only=True)
        with quiet_libraries():
            options = load_options(_quantization(adapters), dtype, "cpu")
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, **options)
        keep_numbers(model)
        for adapter in bringing:
            add_rows_up_to(model, max(token_ids_of_adapter(adapter)))
        for name, adapter in adapters.items():
            place = adapter
            if isinstance(model, PeftModel):
                model.load_adapter(adapter, name)
            else:
                model = PeftModel.from_pretrained(model, adapter, adapter_name=name)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            "the model cannot be loaded", code="model.cannot_load", place=str(place), value=str(error)
        ) from error
    model.eval()
    return Loaded(model, tokenizer)


def _quantization(adapters: Mapping[str, Path]) -> Quantization | None:
    """In how few bits the base is to be loaded: as all the adapters were trained.

    Raises:
        ModelError: They were trained on different ones.
    """
    found = {quantization_of(adapter) for adapter in adapters.values()}
    if len(found) > 1:
        raise ModelError(
            "adapters were trained on a base in different numbers of bits, and one base serves them all",
            code="model.quantizations",
            place=", ".join(map(str, adapters.values())),
            hint="load them one at a time",
        )
    return next(iter(found), None)
