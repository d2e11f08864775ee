"""A model that writes in PyTorch, through Transformers' own forward and generation.

Shape suffixes: T tokens of a row, L places of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from tunesmith.export.runtime import Likeliest, likeliest_of, log_softmax


class TorchText:
    """A model of Transformers, plain or wrapped by PEFT, and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._tokenizer = tokenizer

    @torch.inference_mode()
    def log_probabilities(self, token_ids_T: Sequence[int], positions_L: Sequence[int]) -> NDArray[np.float64]:
        """Of every token behind each position, ``[L, V]``."""
        logits_T_V = self._model(input_ids=torch.tensor([list(token_ids_T)], device=self._model.device)).logits[0]
        # Virtual tokens that PEFT puts before a text have logits too.
        own_T_V = logits_T_V[-len(token_ids_T) :]
        return log_softmax(own_T_V[list(positions_L)].float().cpu().numpy())

    def likeliest(self, token_ids_T: Sequence[int], positions_L: Sequence[int]) -> Likeliest:
        """As in :class:`tunesmith.export.runtime.TextRuntime`."""
        return likeliest_of(self.log_probabilities(token_ids_T, positions_L))

    @torch.inference_mode()
    def continue_greedily(
        self, prompt_T: Sequence[int], max_new_tokens: int, stop_token_ids: Sequence[int]
    ) -> list[int]:
        """As in :class:`tunesmith.export.runtime.TextRuntime`; nothing of the model's own settings counts."""
        prompt = torch.tensor([list(prompt_T)], device=self._model.device)
        untyped: Any = GenerationConfig
        settings = untyped(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=list(stop_token_ids) or None,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        out = self._model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=settings)
        tokens: list[int] = out[0, len(prompt_T) :].tolist()
        ends = [at for at, token in enumerate(tokens) if token in stop_token_ids]
        return tokens[: ends[0]] if ends else tokens

    def encode(self, text: str) -> list[int]:
        """As in :class:`tunesmith.export.runtime.TextRuntime`."""
        return list(self._tokenizer(text)["input_ids"])
