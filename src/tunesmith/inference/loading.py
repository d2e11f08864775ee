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


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode (wrapped by PEFT where there are adapters) and its tokenizer."""

    model: Any
    tokenizer: Any


def load(folder: Path, adapters: Mapping[str, Path], dtype: torch.dtype) -> Loaded:
    """Load weights once and every adapter beside them, under its key in ``adapters``.

    Raises:
        ModelError: The folder or an adapter cannot be loaded.
    """
    place = folder
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
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
