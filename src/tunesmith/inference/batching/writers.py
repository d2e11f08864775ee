"""Open the models that write: each base once, low-rank adapters beside it, other adapters with a base of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tunesmith.errors import ModelError
from tunesmith.generation.decoding import Decoding, resolve_stop_token_ids
from tunesmith.generation.pools import LonePool, SharedPool, make_pool
from tunesmith.generation.row import room_of
from tunesmith.inference.batching.batch import Batch, Writer
from tunesmith.inference.batching.scheduler import Opened
from tunesmith.inference.loading import load, load_base
from tunesmith.models.host import memory_bytes
from tunesmith.models.low_rank_adapters import read_low_rank, why_not_low_rank
from tunesmith.models.new_tokens import tokenizer_folder
from tunesmith.models.packed_linear import pack_linear_layers
from tunesmith.models.quantized import Quantization, quantization_of
from tunesmith.wire.serving import ServedModel

# Of the memory of the device, keys and values may take this share.
_CACHE_SHARE = 0.25


class Writers:
    """Opens and closes models by name; meant for a shelf.

    Args:
        served: The models by name, all of them with the runtime ``torch``.
    """

    def __init__(self, served: Mapping[str, ServedModel]) -> None:
        self._served = served
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = torch.bfloat16 if self._device == "cuda" else torch.float32
        self._shared: dict[tuple[Path, Quantization | None], tuple[Any, Batch]] = {}

    def open(self, name: str) -> Opened:
        """Load what is not loaded yet.

        Raises:
            ModelError: The model or its adapter cannot be loaded.
        """
        model = self._served[name]
        if model.adapter is None:
            return Opened(self._base(model.folder, None)[1])
        if why_not_shared(model.folder, model.adapter) is not None:
            loaded = load(model.folder, model.adapter, self._dtype, self._device)
            return Opened(Batch(make_writer(loaded.model, loaded.tokenizer)))
        base, batch = self._base(model.folder, quantization_of(model.adapter))
        return Opened(batch, read_low_rank(model.adapter, base, dtype=self._dtype))

    def close(self, opened: Opened) -> None:
        """Let go of an adapter; bases stay."""
        pool = opened.batch.pool
        if opened.adapter is not None and isinstance(pool, (SharedPool, LonePool)):
            pool.forget(opened.adapter)

    def _base(self, folder: Path, quantization: Quantization | None) -> tuple[Any, Batch]:
        key = (folder.resolve(), quantization)
        if key not in self._shared:
            loaded = load_base(folder, quantization, self._dtype, self._device)
            pack_linear_layers(loaded.model)
            self._shared[key] = (loaded.model, Batch(make_writer(loaded.model, loaded.tokenizer)))
        return self._shared[key]


def why_not_shared(folder: Path, adapter: Path) -> str | None:
    """Why an adapter needs a copy of its base to itself; None where it does not.

    Raises:
        ModelError: There is no adapter in its folder.
    """
    if tokenizer_folder(folder, adapter) != folder:
        return "it brings tokens"
    return why_not_low_rank(adapter)


def make_writer(model: Any, tokenizer: Any) -> Writer:
    """A loaded model, and what the batch must know of it."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token_bytes = 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize
    device = model.device
    memory = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else memory_bytes()
    return Writer(
        lambda: make_pool(model),
        tokenizer,
        resolve_stop_token_ids(model, tokenizer, Decoding()),
        room_of(model),
        _vocabulary(model),
        max(1, int(_CACHE_SHARE * memory / token_bytes)),
    )


def _vocabulary(model: Any) -> int:
    """How many scores a model gives."""
    matrix = model.get_output_embeddings()
    if matrix is None:
        raise ModelError("the model has no output matrix", code="model.not_served", value=type(model).__name__)
    # Around a matrix that got new rows PEFT puts a wrapper.
    return int(getattr(matrix, "original_module", matrix).out_features)
