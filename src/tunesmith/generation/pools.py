"""Prompts that come and go, and take their steps together: the model's side of continuous batching.

A prompt is first read, in pieces so that the rows that are under way wait for one piece at a time; then it joins them.
Two pools do the same in different ways: one computes all rows in one forward pass, each with its own adapter; the
other one after the other in the library's own way, for models that the first is not tested for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from tunesmith.generation.forward import Rows, SlotRows, attention_of_slots, new_rows, uses_slots
from tunesmith.generation.plan import changing_rotation_limit
from tunesmith.generation.row_cache import RowCache
from tunesmith.models.low_rank_adapters import LowRankAdapter
from tunesmith.models.mixed_adapters import MixedAdapters
from tunesmith.models.prompted import is_prompted

# Rows under way wait for so many tokens of a new prompt at a time: a quarter of a second of the starter model.
TOKENS_AT_ONCE = 256


class Beginning(Protocol):
    """A prompt that is being read."""

    def advance(self) -> torch.Tensor | None:
        """Read on; the scores of the next token, ``[1, vocabulary]``, once all is read."""


class Pool(Protocol):
    """Rows by keys of the caller's choice."""

    def begin(self, prompt: Sequence[int], adapter: Any) -> Beginning:
        """Start to read a prompt; ``adapter`` is one in the pool's own form, None for the base."""

    def join(self, beginning: Any, keys: Sequence[int]) -> None:
        """Let a prompt that was read through take part, once for each key."""

    def step(self, keys: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """Add one token to each row that is in the pool; scores of the next, ``[rows, vocabulary]``, by the keys."""

    def leave(self, key: int) -> None:
        """Drop a row."""

    def clear(self) -> None:
        """Drop all rows, whatever state a failure left them in."""

    @property
    def memory_bytes(self) -> int:
        """What the keys and values take."""


def make_pool(model: Any) -> Pool:
    """The pool that is exact for a model in eval mode."""
    wrapped = is_prompted(model) or hasattr(model, "peft_config")
    shared = uses_slots(model) and not wrapped and changing_rotation_limit(model) is None
    return SharedPool(model) if shared else LonePool(model)


class _SlotBeginning:
    def __init__(self, rows: SlotRows, mixed: MixedAdapters, adapter: LowRankAdapter | None) -> None:
        self.rows = rows
        self.adapter = adapter
        self._mixed = mixed
        self._pieces = rows.pieces(TOKENS_AT_ONCE)

    @torch.inference_mode()
    def advance(self) -> torch.Tensor | None:
        with self._mixed.use([self.adapter]):
            return next(self._pieces)


class SharedPool:
    """All rows in one forward pass, each with its own low-rank adapter."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._mixed = MixedAdapters(model)
        self._cache = RowCache()
        self._keys: list[int] = []
        self._adapters: list[LowRankAdapter | None] = []

    @property
    def memory_bytes(self) -> int:
        """As in :class:`Pool`."""
        return self._cache.memory_bytes

    def begin(self, prompt: Sequence[int], adapter: LowRankAdapter | None) -> _SlotBeginning:
        """As in :class:`Pool`."""
        return _SlotBeginning(SlotRows(self._model, [prompt]), self._mixed, adapter)

    @torch.inference_mode()
    def join(self, beginning: _SlotBeginning, keys: Sequence[int]) -> None:
        """As in :class:`Pool`."""
        self._cache.join(beginning.rows.as_prefix(), len(keys))
        self._keys += keys
        self._adapters += [beginning.adapter] * len(keys)

    @torch.inference_mode()
    def step(self, keys: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """As in :class:`Pool`."""
        given = dict(zip(keys, tokens, strict=True))
        device = self._model.device
        inputs = torch.tensor([[given[key]] for key in self._keys], device=device)
        positions = self._cache.begin_step(device)
        with attention_of_slots(self._model), self._mixed.use(self._adapters):
            out = self._model(
                input_ids=inputs,
                position_ids=positions,
                past_key_values=self._cache,
                slot_cache=self._cache,
                use_cache=True,
            )
        scores: torch.Tensor = out.logits[:, -1]
        order = [self._keys.index(key) for key in keys]
        return scores if order == list(range(len(order))) else scores[torch.tensor(order, device=device)]

    @torch.inference_mode()
    def leave(self, key: int) -> None:
        """As in :class:`Pool`."""
        row = self._keys.index(key)
        self._cache.leave(row)
        last_key, last_adapter = self._keys.pop(), self._adapters.pop()
        if row < len(self._keys):
            self._keys[row], self._adapters[row] = last_key, last_adapter

    def clear(self) -> None:
        """As in :class:`Pool`."""
        self._cache, self._keys, self._adapters = RowCache(), [], []

    def forget(self, adapter: LowRankAdapter) -> None:
        """Let go of what was made for an adapter that leaves."""
        self._mixed.forget(adapter)


class _LoneRow:
    """A row with a cache of its own."""

    def __init__(self, model: Any, mixed: MixedAdapters, prompt: Sequence[int], adapter: LowRankAdapter | None) -> None:
        self.tokens = list(prompt)
        self.adapter = adapter
        self._model = model
        self._mixed = mixed
        self._limit = changing_rotation_limit(model)
        self._rows: Rows | None = None

    def advance(self) -> torch.Tensor:
        """Read all tokens there are, from the first."""
        with self._mixed.use([self.adapter]):
            self._rows = new_rows(self._model, [self.tokens], None)
            return self._rows.start()

    def step(self, token: int) -> torch.Tensor:
        """Read one token more."""
        assert self._rows is not None
        self.tokens.append(token)
        if self._limit is not None and len(self.tokens) == self._limit + 1:
            # Beyond this length the model rotates every position differently, so all keys are made anew.
            return self.advance()
        with self._mixed.use([self.adapter]):
            return self._rows.step([token])


class LonePool:
    """One row after the other, in the way that is exact for any model, with whatever the model is wrapped by."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._mixed = MixedAdapters(model)
        self._rows: dict[int, _LoneRow] = {}

    @property
    def memory_bytes(self) -> int:
        """Not known: the library's caches do not say."""
        return 0

    def begin(self, prompt: Sequence[int], adapter: LowRankAdapter | None) -> _LoneRow:
        """As in :class:`Pool`."""
        return _LoneRow(self._model, self._mixed, prompt, adapter)

    def join(self, beginning: _LoneRow, keys: Sequence[int]) -> None:
        """As in :class:`Pool`."""
        prompt = list(beginning.tokens)
        for at, key in enumerate(keys):
            row = beginning
            if at:
                # A cache of the library cannot be copied for every family; the prompt is read again.
                row = self.begin(prompt, beginning.adapter)
                row.advance()
            self._rows[key] = row

    def step(self, keys: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """As in :class:`Pool`."""
        return torch.cat([self._rows[key].step(token) for key, token in zip(keys, tokens, strict=True)])

    def leave(self, key: int) -> None:
        """As in :class:`Pool`."""
        del self._rows[key]

    def clear(self) -> None:
        """As in :class:`Pool`."""
        self._rows = {}

    def forget(self, adapter: LowRankAdapter) -> None:
        """Let go of what was made for an adapter that leaves."""
        self._mixed.forget(adapter)
