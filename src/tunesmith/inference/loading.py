"""Load a model folder and adapters for inference."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode (wrapped by PEFT where there are adapters), its tokenizer, and its head if it has one."""

    model: Any
    tokenizer: Any
    head: Head | None = None


def load(folder: Path, adapters: Mapping[str, Path], dtype: torch.dtype) -> Loaded:
    """Load weights once and every adapter beside them, under its key in ``adapters``.

    Raises:
        ModelError: The folder or an adapter cannot be loaded, two adapters bring new tokens or have different heads,
            or the model neither continues texts nor has a head.
    """
    bringing = [adapter for adapter in adapters.values() if tokenizer_folder(folder, adapter) != folder]
    if len(bringing) > 1:
        raise ModelError(
            "adapters that bring new tokens each have a tokenizer of their own",
            code="model.tokenizers",
            place=str(bringing[1]),
            hint="load them one at a time",
        )
    head = _head(folder, adapters)
    _require_served(folder, head)
    place = folder
    try:
        tokenizer = AutoTokenizer.from_pretrained(bringing[0] if bringing else folder, local_files_only=True)
        with quiet_libraries():
            options = load_options(_quantization(adapters), dtype, "cpu")
        if head is None:
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, **options)
            keep_numbers(model)
        else:
            plan = LoadPlan(folder, dtype, attention="sdpa", head=head, quantization=_quantization(adapters))
            model = load_model(plan)
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
    return Loaded(model, tokenizer, head)


def _head(folder: Path, adapters: Mapping[str, Path]) -> Head | None:
    """The head that all the adapters share; that of the model where there are none.

    Raises:
        ModelError: They have different ones.
    """
    found = {read_head(place) for place in adapters.values() or (folder,)}
    if len({head and (head.kind, head.labels) for head in found}) > 1:
        raise ModelError(
            "adapters have different heads, and one model serves them all",
            code="model.heads",
            place=", ".join(map(str, adapters.values())),
            hint="load them one at a time",
        )
    return next(iter(found), None)


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
