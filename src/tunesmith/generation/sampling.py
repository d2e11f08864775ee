"""Choose the next token of each row."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from tunesmith.generation.decoding import Decoding


def choose(logits: torch.Tensor, decoding: Decoding, randoms: Sequence[random.Random]) -> list[int]:
    """Pick one token a row.

    Args:
        logits: Scores of the next token, ``[rows, vocabulary]``, any floating dtype.
        decoding: Temperature and top_p.
        randoms: Each row's own source of randomness, so that a row's tokens do not depend on its neighbours.

    Returns:
        One token id a row.
    """
    scores = logits.float()
    if decoding.temperature == 0:
        return [int(token) for token in scores.argmax(dim=-1).tolist()]
    probabilities, order = torch.softmax(scores / decoding.temperature, dim=-1).sort(dim=-1, descending=True)
    # Double precision: over a large vocabulary a float32 running sum is off by more than the rarest tokens weigh.
    reached = probabilities.double().cumsum(dim=-1)
    kept = (reached < decoding.top_p).sum(dim=-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
    draws = torch.tensor([[source.random()] for source in randoms], dtype=torch.float64, device=scores.device)
    chosen = torch.searchsorted(reached, draws * reached.gather(1, kept), right=True).clamp(max=kept)
    return [int(token) for token in order.gather(1, chosen).squeeze(1).tolist()]
