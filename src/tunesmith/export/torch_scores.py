"""A model with a head, or an encoder, in PyTorch.

Shape suffixes: T tokens of a row, C classes, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class TorchScores:
    """A model of Transformers, plain or wrapped by PEFT."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @torch.inference_mode()
    def scores(self, token_ids_T: Sequence[int]) -> NDArray[np.float32]:
        """As in :class:`tunesmith.export.runtime.ScoreRuntime`."""
        ids = torch.tensor([list(token_ids_T)], device=self._model.device)
        found = scores_of(self._model(input_ids=ids, attention_mask=torch.ones_like(ids)))[0].float().cpu().numpy()
        # Virtual tokens that PEFT puts before a text have scores too.
        return np.asarray(found[-len(token_ids_T) :] if found.ndim > 1 else found[None], dtype=np.float32)


def scores_of(out: Any) -> torch.Tensor:
    """What counts of an output: classes ``[B, C]`` or ``[B, T, C]``, marks ``[B, T, 2]``, states ``[B, T, H]``."""
    if "start_logits" in out:
        return torch.stack([out.start_logits, out.end_logits], dim=-1)
    scores: torch.Tensor = out.logits if "logits" in out else out.last_hidden_state
    return scores
