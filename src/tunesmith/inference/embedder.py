"""Vectors of texts by an encoder: the mean of its last states, or the state of the first token, of length one.

Which of the two is read from the folder's pooling settings where it has some (the form of Sentence Transformers, see
Reimers and Gurevych 2019), else it is the mean.

Shape suffixes: B texts, T tokens of the longest, H size of a state.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from tunesmith.errors import ModelError
from tunesmith.generation.plan import context_length
from tunesmith.inference.failures import RefusedError
from tunesmith.inference.loading import LOADING
from tunesmith.models.quiet import quiet_libraries
from tunesmith.runs.atomic import read_json

_TOKENS_AT_ONCE = 8192


class Embedder:
    """Answers requests in turn; callers may come from several threads."""

    def __init__(self, model: Any, tokenizer: Any, pooling: str) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._pooling = pooling
        # Some families number positions from behind the padding's.
        limit = getattr(tokenizer, "model_max_length", None)
        context = context_length(model)
        self._context = min(context or 10**9, limit or 10**9)
        self._turn = threading.Lock()

    def embed(self, inputs: Sequence[str | list[int]]) -> tuple[NDArray[np.float32], int]:
        """Vectors ``[B, H]`` in the order of the inputs, and how many tokens were read.

        Raises:
            RefusedError: An input is empty or longer than the model reads.
        """
        with self._turn, torch.inference_mode():
            rows = [self._tokens(at, one) for at, one in enumerate(inputs)]
            order = sorted(range(len(rows)), key=lambda at: len(rows[at]))
            vectors: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(rows)
            while order:
                count = max(1, _TOKENS_AT_ONCE // max(1, len(rows[order[-1]])))
                chosen, order = order[-count:], order[:-count]
                for at, vector in zip(chosen, self._run([rows[at] for at in chosen]), strict=True):
                    vectors[at] = vector
            return np.stack(vectors), sum(map(len, rows))

    def _tokens(self, at: int, one: str | list[int]) -> list[int]:
        tokens = self._tokenizer(one, verbose=False)["input_ids"] if isinstance(one, str) else one
        param = f"input.{at}"
        if not one or not tokens:
            raise RefusedError(400, "there is nothing to read", param=param, code="empty_input")
        if any(not 0 <= token < len(self._tokenizer) for token in tokens):
            raise RefusedError(400, "a token is not one of the model's", param=param, code="invalid_value")
        if len(tokens) > self._context:
            raise RefusedError(
                400,
                f"This model's maximum context length is {self._context} tokens. However, this input has "
                f"{len(tokens)} tokens. Please reduce its length.",
                param=param,
                code="context_length_exceeded",
            )
        return [int(token) for token in tokens]

    def _run(self, rows: Sequence[list[int]]) -> NDArray[np.float32]:
        """``states`` are ``[B, T, H]``, what is pooled of them ``[B, H]``."""
        widest = max(map(len, rows))
        pad = self._tokenizer.pad_token_id or 0
        device = self._model.device
        ids_BT = torch.tensor([row + [pad] * (widest - len(row)) for row in rows], device=device)
        mask_BT = torch.tensor([[1] * len(row) + [0] * (widest - len(row)) for row in rows], device=device)
        states = self._model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state.float()
        if self._pooling == "cls":
            pooled = states[:, 0]
        else:
            weights = mask_BT[:, :, None].to(states.dtype)
            pooled = (states * weights).sum(dim=1) / weights.sum(dim=1)
        found: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
        return found


def load_embedder(folder: Path) -> Embedder:
    """Load an encoder.

    Raises:
        ModelError: The folder cannot be loaded, or its pooling is of a kind that is not made here.
    """
    pooling = _pooling(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        with LOADING, quiet_libraries():
            model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            "the model cannot be loaded", code="model.cannot_load", place=str(folder), value=str(error)[:300]
        ) from error
    return Embedder(model.float().to(device).eval(), tokenizer, pooling)


def _pooling(folder: Path) -> str:
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    settings = read_json(path)
    chosen = [key for key, value in settings.items() if key.startswith("pooling_mode") and value is True]
    if isinstance(settings.get("pooling_mode"), str):
        chosen = [str(settings["pooling_mode"])]
    if chosen in (["pooling_mode_mean_tokens"], ["mean"]):
        return "mean"
    if chosen in (["pooling_mode_cls_token"], ["cls"]):
        return "cls"
    raise ModelError(
        "the model's pooling is not made here",
        code="model.pooling",
        place=str(path),
        value=", ".join(chosen) or "none",
        hint="models that take the mean or the first token are served",
    )
