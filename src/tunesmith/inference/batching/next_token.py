"""Choose the next token of rows that each have wishes of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from tunesmith.generation.decoding import Decoding
from tunesmith.generation.row import Row
from tunesmith.generation.sampling import choose_each
from tunesmith.inference.constraints import Matcher
from tunesmith.inference.requests import ScoredToken, Shaping, TokenScore

# A token, with its score where that is wanted; or why this row cannot go on.
Chosen: TypeAlias = tuple[int, ScoredToken | None] | Exception


@dataclass
class Wishes:
    """What decides about a row's next token, and what of it grows with the answer."""

    decoding: Decoding
    shaping: Shaping
    likeliest: int | None
    matcher: Matcher | None = None
    counts: Counter[int] = field(default_factory=Counter)

    def took(self, token_id: int) -> None:
        """A token was chosen."""
        if self.matcher is not None:
            self.matcher.take(token_id)
        if self.shaping.presence_penalty or self.shaping.frequency_penalty:
            self.counts[token_id] += 1


def next_tokens(logits: torch.Tensor, rows: Sequence[Row], wishes: Sequence[Wishes]) -> list[Chosen]:
    """One token a row, with its score where that is wanted; what a row's wishes fail with concerns that row alone.

    Args:
        logits: ``[rows, vocabulary]``; changed in place where a row's shaping asks for it.
        rows: What was generated so far.
        wishes: Each row's.
    """
    with torch.inference_mode():
        scores = logits.float()
        told = [at for at, one in enumerate(wishes) if one.likeliest is not None]
        logprobs = {at: torch.log_softmax(scores[at], dim=-1) for at in told}
        failed: dict[int, Exception] = {}
        for at, one in enumerate(wishes):
            try:
                if not one.shaping.is_plain:
                    _shape(scores[at], one)
            except Exception as error:
                failed[at] = error
        chosen = choose_each(scores, [one.decoding for one in wishes], [row.random for row in rows])
    found: list[Chosen] = []
    for at, (token, one) in enumerate(zip(chosen, wishes, strict=True)):
        if at in failed:
            found.append(failed[at])
            continue
        one.took(token)
        found.append((token, _scored(logprobs[at], token, one.likeliest or 0) if at in logprobs else None))
    return found


def _shape(scores_V: torch.Tensor, wishes: Wishes) -> None:
    shaping = wishes.shaping
    if wishes.counts:
        ids = torch.tensor(list(wishes.counts), device=scores_V.device)
        times = torch.tensor(list(wishes.counts.values()), dtype=scores_V.dtype, device=scores_V.device)
        scores_V[ids] -= shaping.presence_penalty + shaping.frequency_penalty * times
    for token_id, bias in shaping.bias.items():
        scores_V[token_id] += bias
    if wishes.matcher is not None:
        allowed_V = wishes.matcher.allowed().to(scores_V.device)[: scores_V.shape[0]]
        scores_V[: allowed_V.shape[0]].masked_fill_(~allowed_V, float("-inf"))
        scores_V[allowed_V.shape[0] :] = float("-inf")


def _scored(logprobs_V: torch.Tensor, token: int, likeliest: int) -> ScoredToken:
    chosen = TokenScore(token, float(logprobs_V[token]))
    if not likeliest:
        return ScoredToken(chosen, ())
    values, ids = logprobs_V.topk(min(likeliest, logprobs_V.shape[0]))
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return ScoredToken(chosen, tuple(TokenScore(int(one), float(value)) for one, value in pairs))
