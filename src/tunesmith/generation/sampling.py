"""Choose the next token of each row."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from tunesmith.generation.decoding import Decoding


def choose(logits: torch.Tensor, decoding: Decoding, randoms: Sequence[random.Random]) -> list[int]:
    """Pick one token a row, all rows by one decoding.

    Args:
        logits: Scores of the next token, ``[rows, vocabulary]``, any floating dtype.
        decoding: Temperature and top_p.
        randoms: Each row's own source of randomness, so that a row's tokens do not depend on its neighbours.

    Returns:
        One token id a row.
    """
    return choose_each(logits, [decoding] * len(randoms), randoms)


def choose_each(logits: torch.Tensor, decodings: Sequence[Decoding], randoms: Sequence[random.Random]) -> list[int]:
    """As :func:`choose`, each row by its own decoding."""
    scores = logits.float()
    chosen: list[int] = scores.argmax(dim=-1).tolist()
    sampled = [at for at, decoding in enumerate(decodings) if decoding.temperature > 0]
    if sampled:
        rows = scores if len(sampled) == len(decodings) else scores[torch.tensor(sampled, device=scores.device)]
        tokens = _sample(rows, [decodings[at] for at in sampled], [randoms[at] for at in sampled])
        for at, token in zip(sampled, tokens, strict=True):
            chosen[at] = token
    return chosen


def _sample(scores: torch.Tensor, decodings: Sequence[Decoding], randoms: Sequence[random.Random]) -> list[int]:
    # Its type is named: what torch makes without that changes while a model is loaded in another thread.
    temperatures = torch.tensor([[one.temperature] for one in decodings], dtype=scores.dtype, device=scores.device)
    top_ps = torch.tensor([[one.top_p] for one in decodings], dtype=torch.float64, device=scores.device)
    probabilities, order = torch.softmax(scores / temperatures, dim=-1).sort(dim=-1, descending=True)
    # Double precision: over a large vocabulary a float32 running sum is off by more than the rarest tokens weigh.
    reached = probabilities.double().cumsum(dim=-1)
    kept = (reached < top_ps).sum(dim=-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
    draws = torch.tensor([[source.random()] for source in randoms], dtype=torch.float64, device=scores.device)
    chosen = torch.searchsorted(reached, draws * reached.gather(1, kept), right=True).clamp(max=kept)
    return [int(token) for token in order.gather(1, chosen).squeeze(1).tolist()]
