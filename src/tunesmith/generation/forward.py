"""Two ways to run a batch of rows through a model token by token: with a shared prefix, and the library's own way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from transformers import DynamicCache

from tunesmith.errors import ModelError
from tunesmith.generation.slots import ATTENTION, KeyValue, SlotCache
from tunesmith.models.prompted import is_prompted, virtual_tokens

# Families whose tokens are tested to equal the library's own under slot attention (windows and soft caps included).
SLOT_FAMILIES = frozenset(
    {"llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "mistral", "phi3", "smollm3"},
)
_SCORES_AT_ONCE = 2**26
_TOKENS_AT_ONCE = 4096


class Rows(Protocol):
    """A batch in the making: the prompts go in once, then one token a row and step."""

    def start(self) -> torch.Tensor:
        """Run the prompts; scores of each row's next token, ``[rows, vocabulary]``."""

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Add one token to each row; scores of the next, ``[rows, vocabulary]``."""

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these."""


class SlotRows:
    """Rows over a shared prefix; ``prompts`` are the tokens after it, none empty."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], prefix: list[KeyValue] | None = None) -> None:
        self._model = model
        self._prompts = prompts
        self._cache = SlotCache(prefix)
        self._lengths = [len(prompt) for prompt in prompts]

    def start(self) -> torch.Tensor:
        """As in :class:`Rows`; long prompts go through in pieces that bound the memory of attention."""
        *_, scores = self.pieces()
        assert scores is not None
        return scores

    def pieces(self, tokens_at_once: int = _TOKENS_AT_ONCE) -> Iterator[torch.Tensor | None]:
        """Run the prompts piece by piece; the last gives the scores of :meth:`start`, the others None."""
        widest = max(self._lengths)
        # Padded on the left, so that the last column holds every row's last token and gives all scores needed.
        tokens = torch.tensor([[0] * (widest - len(prompt)) + list(prompt) for prompt in self._prompts])
        positions = torch.tensor([[*([-1] * (widest - n)), *range(n)] for n in self._lengths])
        columns = min(self._columns_at_once(widest), max(1, tokens_at_once // len(self._prompts)))
        for start in range(0, widest, columns):
            end = min(widest, start + columns)
            lengths = [max(0, end - (widest - n)) for n in self._lengths]
            scores = self._forward(tokens[:, start:end], positions[:, start:end], lengths)
            yield scores if end == widest else None

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """As in :class:`Rows`."""
        positions = torch.tensor(self._lengths)[:, None]
        self._lengths = [length + 1 for length in self._lengths]
        return self._forward(torch.tensor(tokens)[:, None], positions, self._lengths)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """As in :class:`Rows`."""
        self._lengths = [self._lengths[row] for row in rows]
        self._cache.keep(torch.tensor(rows, device=self._model.device))

    def as_prefix(self) -> list[KeyValue]:
        """The single row of this batch as the prefix of others."""
        return self._cache.as_prefix()

    def _columns_at_once(self, widest: int) -> int:
        config = self._model.config.get_text_config()
        rows = len(self._prompts)
        keys = self._cache.prefix_length + widest
        by_scores: int = _SCORES_AT_ONCE // (config.num_attention_heads * rows * keys)
        return max(1, min(by_scores, _TOKENS_AT_ONCE // rows))

    @torch.inference_mode()
    def _forward(self, tokens: torch.Tensor, positions: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        device = self._model.device
        positions = positions.to(device)
        self._cache.place(positions, lengths)
        with attention_of_slots(self._model):
            out = self._model(
                input_ids=tokens.to(device),
                position_ids=positions.clamp(min=0) + self._cache.prefix_length,
                past_key_values=self._cache,
                slot_cache=self._cache,
                use_cache=True,
                logits_to_keep=last_column(tokens),
            )
        return last_scores(out)


class LibraryRows:
    """Rows padded on the left over the library's own cache and attention: for every model, without a shared prefix."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        self._model = model
        self._prompts = prompts
        self._lengths = [len(prompt) for prompt in prompts]
        self._cache = DynamicCache(config=model.config)
        self._mask = torch.empty(0)

    @torch.inference_mode()
    def start(self) -> torch.Tensor:
        """As in :class:`Rows`."""
        widest = max(self._lengths)
        tokens = torch.tensor([[0] * (widest - len(prompt)) + list(prompt) for prompt in self._prompts])
        self._mask = torch.tensor([[0] * (widest - n) + [1] * n for n in self._lengths], device=self._model.device)
        return self._forward(tokens, (self._mask.cumsum(dim=1) - 1).clamp(min=0))

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """As in :class:`Rows`."""
        positions = torch.tensor(self._lengths)[:, None]
        self._lengths = [length + 1 for length in self._lengths]
        self._mask = torch.cat([self._mask, self._mask.new_ones((len(tokens), 1))], dim=1)
        return self._forward(torch.tensor(tokens)[:, None], positions)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """As in :class:`Rows`."""
        self._lengths = [self._lengths[row] for row in rows]
        index = torch.tensor(rows, device=self._model.device)
        self._mask = self._mask[index]
        self._cache.reorder_cache(cast(torch.LongTensor, index))

    def _forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        device = self._model.device
        out = self._model(
            input_ids=tokens.to(device),
            attention_mask=self._mask,
            position_ids=positions.to(device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=last_column(tokens),
        )
        return last_scores(out)


def last_column(tokens: torch.Tensor) -> torch.Tensor:
    """The last column of ``[rows, tokens]`` as an index.

    Taken by an index, the hidden states come out as one block. As a slice they would not, and with frozen weights
    torch then multiplies row by row, each with its own copy of the output matrix: a minute and 11 GB for 195 rows.
    """
    return torch.tensor([tokens.shape[1] - 1], device=tokens.device)


def last_scores(out: Any) -> torch.Tensor:
    """The scores of the last column, ``[rows, vocabulary]``."""
    scores: torch.Tensor = out.logits[:, -1]
    return scores


def uses_slots(model: Any) -> bool:
    """Whether slot attention is tested for this model's family, and the code is the library's own."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(inner).__module__.startswith("transformers.") and inner.config.model_type in SLOT_FAMILIES


def share_prefix(model: Any, prefix: Sequence[int]) -> list[KeyValue]:
    """Keys and values of a prompt's beginning, to be shared by many rows; virtual tokens stand before it."""
    before = virtual_prefix(model)
    rows = SlotRows(_writer(model), [prefix], before)
    rows.start()
    own = rows.as_prefix()
    if before is None:
        return own
    both = zip(before, own, strict=True)
    return [(torch.cat([k, own_k], dim=2), torch.cat([v, own_v], dim=2)) for (k, v), (own_k, own_v) in both]


def new_rows(model: Any, prompts: Sequence[Sequence[int]], prefix: list[KeyValue] | None) -> Rows:
    """Rows in the way that is exact for the model; without a shared ``prefix`` its virtual tokens are one.

    Raises:
        ModelError: The model has virtual tokens, and is of a family that no prefix is tested for.
    """
    if uses_slots(model):
        return SlotRows(_writer(model), prompts, prefix if prefix is not None else virtual_prefix(model))
    if is_prompted(model):
        raise ModelError(
            "virtual tokens are a shared prefix, which is not tested for this family of models",
            code="model.virtual_tokens",
            value=model.base_model.config.model_type,
            hint="choose technique: lora",
        )
    return LibraryRows(model, prompts)


@torch.inference_mode()
def virtual_prefix(model: Any) -> list[KeyValue] | None:
    """Keys and values of a model's virtual tokens; None where it has none."""
    if not is_prompted(model):
        return None
    learned = virtual_tokens(model)
    inner = model.base_model
    if not isinstance(learned, torch.Tensor):
        return [(key.to(inner.dtype), value.to(inner.dtype)) for key, value in learned]
    count = learned.shape[1]
    cache = SlotCache()
    positions = torch.arange(count, device=inner.device)[None]
    cache.place(positions, [count])
    with attention_of_slots(inner):
        inner(
            inputs_embeds=learned.to(inner.dtype),
            position_ids=positions,
            past_key_values=cache,
            slot_cache=cache,
            use_cache=True,
            logits_to_keep=torch.tensor([count - 1], device=inner.device),
        )
    return cache.as_prefix()


def _writer(model: Any) -> Any:
    """What runs token by token: of a model with virtual tokens, the model below them."""
    return model.base_model if is_prompted(model) else model


@contextmanager
def attention_of_slots(model: Any) -> Iterator[None]:
    """Slot attention for one forward; the config is as before afterwards, so training goes on undisturbed."""
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before
