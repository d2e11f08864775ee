"""Load a model folder, and an adapter on it, for inference."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.catalog.heads import Head, read_head
from tunesmith.data.words import OUTSIDE
from tunesmith.errors import ModelError
from tunesmith.models.check import model_kind, read_config
from tunesmith.models.load import LoadPlan, load_model
from tunesmith.models.new_tokens import add_rows_up_to, token_ids_of_adapter, tokenizer_folder
from tunesmith.models.quantized import Quantization, keep_numbers, load_options, quantization_of
from tunesmith.models.quiet import quiet_libraries

# While Transformers loads a model it has functions of its own and of torch replaced for the whole process: a second one
# that is loaded meanwhile comes out broken. Whatever loads models in threads does so under this lock.
LOADING = threading.RLock()


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode (wrapped by PEFT where there is an adapter), its tokenizer, and its head if it has one."""

    model: Any
    tokenizer: Any
    head: Head | None = None


def load_base(folder: Path, quantization: Quantization | None, dtype: torch.dtype, device: str) -> Loaded:
    """Load a model that writes, without any adapter, its weights in as few bits as asked for.

    Raises:
        ModelError: The folder cannot be loaded, or the model does not continue texts.
    """
    _require_served(folder, None)
    try:
        with LOADING:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            return Loaded(_writer(folder, quantization, dtype, device), tokenizer)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _cannot_load(folder, error) from error


def load(folder: Path, adapter: Path | None, dtype: torch.dtype, device: str = "cpu") -> Loaded:
    """Load weights, and an adapter of any method on them.

    Raises:
        ModelError: The folder or the adapter cannot be loaded, or the model neither continues texts nor has a head.
    """
    head = read_head(adapter or folder)
    _require_served(folder, head)
    quantization = None if adapter is None else quantization_of(adapter)
    place = folder
    with LOADING:
        try:
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(folder, adapter), local_files_only=True)
            if head is None:
                model = _writer(folder, quantization, dtype, device)
            else:
                plan = LoadPlan(folder, dtype, device, attention="sdpa", head=head, quantization=quantization)
                model = load_model(plan)
            if adapter is not None:
                place = adapter
                add_rows_up_to(model, max(token_ids_of_adapter(adapter), default=-1))
                with quiet_libraries():
                    model = PeftModel.from_pretrained(model, adapter, local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise _cannot_load(place, error) from error
    return Loaded(model.eval(), tokenizer, head)


def _writer(folder: Path, quantization: Quantization | None, dtype: torch.dtype, device: str) -> Any:
    with quiet_libraries():
        options = load_options(quantization, dtype, device)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, **options)
    keep_numbers(model)
    # Quantized layers were put on the device while they were loaded, and may not be moved.
    return (model if options else model.to(device)).eval()


def _cannot_load(place: Path, error: Exception) -> ModelError:
    return ModelError("the model cannot be loaded", code="model.cannot_load", place=str(place), value=str(error))


def _require_served(folder: Path, head: Head | None) -> None:
    kind = model_kind(read_config(folder))
    if head is None and kind != "causal":
        raise ModelError(
            "this model neither continues texts nor has a trained head"
            if kind == "encoder"
            else "models with encoder and decoder are not served; they write what `tunesmith eval` measures",
            code="model.not_served",
            place=str(folder),
            hint="train a head on it, and name the run"
            if kind == "encoder"
            else "load the folder with AutoModelForSeq2SeqLM, or train a causal model on the same rows",
        )
    marked = all(label == OUTSIDE or label[1:2] == "-" for label in head.labels) if head is not None else True
    if head is not None and head.kind == "token_classification" and not (marked and OUTSIDE in head.labels):
        raise ModelError(
            "the tags of the model's head are not of a form that is read here",
            code="model.labels",
            place=str(folder),
            value=", ".join(head.labels[:6]),
            hint="tags are O, and B-x and I-x for each label x",
        )
