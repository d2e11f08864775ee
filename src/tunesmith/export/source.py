"""What is exported: a model on disk with or without an adapter, and how PyTorch loads it to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tunesmith.catalog.heads import Head
from tunesmith.errors import ModelError
from tunesmith.models.adapters import with_adapter
from tunesmith.models.check import check_weights, model_kind, read_config
from tunesmith.models.load import LoadPlan, load_model
from tunesmith.models.quantized import Quantization
from tunesmith.models.quiet import quiet_libraries

Kind = Literal["text", "head", "encoder"]


@dataclass(frozen=True)
class Source:
    """One model.

    Attributes:
        name: What files and folders call it.
        folder: Config and safetensors of the base, or of a model that was trained whole.
        adapter: The PEFT adapter on it, if there is one.
        tokenizer: Of the tuned model, new tokens included.
        kind: Whether it writes, has a head, or gives states of texts.
        head: What the head does.
        quantization: In how few bits the base was when the adapter was trained.
        context_length: Most tokens of a text; None for no limit.
        more_adapters: Further adapters on the same base, by name, for forms that hold several.
        stop_token_ids: Tokens at which answers end, beside those that tokenizer and settings name.
    """

    name: str
    folder: Path
    adapter: Path | None
    tokenizer: Any
    kind: Kind = "text"
    head: Head | None = None
    quantization: Quantization | None = None
    context_length: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    more_adapters: tuple[tuple[str, Path], ...] = ()


def load_source(source: Source) -> Any:
    """The model in float32 on the processor, as it was measured after training; in eval mode.

    Exports are compared with this one, whatever type a GPU may have computed in.

    Raises:
        ModelError, ResourceError: See :func:`tunesmith.models.load.load_model`.
    """
    base = load_base(source)
    return base if source.adapter is None else with_adapter(base, source.adapter)


def load_base(source: Source) -> Any:
    """Likewise without the adapter."""
    if source.kind == "encoder":
        return _encoder(source.folder)
    plan = LoadPlan(source.folder, torch.float32, "cpu", "sdpa", head=source.head, quantization=source.quantization)
    return load_model(plan)


def kind_of(folder: Path, head: Head | None) -> Kind:
    """What a model does with texts.

    Raises:
        ModelError: ``export.encoder_decoder``: it reads with an encoder and writes with a decoder.
    """
    if head is not None:
        return "head"
    kind = model_kind(read_config(folder))
    if kind == "encoder_decoder":
        raise ModelError(
            "models with an encoder and a decoder are not exported",
            code="export.encoder_decoder",
            place=str(folder),
            hint="the run's folder loads in Transformers as it is",
        )
    return "encoder" if kind == "encoder" else "text"


def _encoder(folder: Path) -> Any:
    from transformers import AutoModel

    config = read_config(folder)
    check_weights(folder)
    with quiet_libraries():
        model = AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    return model.eval()


def stop_tokens(source: Source) -> tuple[int, ...]:
    """Tokens at which answers end: what the tokenizer and the model's generation settings name."""
    from transformers import GenerationConfig

    found = {source.tokenizer.eos_token_id}
    if (source.folder / "generation_config.json").is_file():
        named = GenerationConfig.from_pretrained(source.folder, local_files_only=True).eos_token_id
        found |= set(named) if isinstance(named, list) else {named}
    return tuple(sorted(int(token) for token in {*found, *source.stop_token_ids} if token is not None))
