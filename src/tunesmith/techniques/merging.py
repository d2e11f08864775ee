"""How exact a merge is: the scores of the model before and after, on the same tokens.

Shape suffixes: T tokens of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tunesmith.data.types import TokenRow

_MOST_TOKENS = 512


@dataclass(frozen=True)
class MergeDifference:
    """Absolute differences of logits over ``tokens`` tokens: the largest one and the mean."""

    largest: float
    mean: float
    tokens: int

    def to_json(self) -> dict[str, float]:
        """For a manifest."""
        return asdict(self)

    def __str__(self) -> str:
        return f"logits differ by {self.largest:.1e} at most, {self.mean:.1e} on average, over {self.tokens} tokens"


@torch.inference_mode()
def logits_of(model: Any, rows: Sequence[TokenRow]) -> list[torch.Tensor]:
    """Logits ``[T, V]`` of each row, of its first 512 tokens, in fp32 on the CPU; classes of a head stand for V."""
    found = []
    for row in rows:
        tokens_T = torch.tensor(row.token_ids_T[:_MOST_TOKENS], device=model.device)
        found.append(_scores(model, tokens_T).float().cpu())
    return found


def _scores(model: Any, tokens_T: torch.Tensor) -> torch.Tensor:
    """What the model makes of the tokens, one line for each place that it scores."""
    # A decoder needs something to start from; any tokens show what differs.
    decoder = {"decoder_input_ids": tokens_T[None]} if model.config.is_encoder_decoder else {}
    out = model(input_ids=tokens_T[None], **decoder)
    if "start_logits" in out:
        return torch.stack([out.start_logits[0], out.end_logits[0]], dim=-1)
    scores: torch.Tensor = out.logits[0]
    return scores if scores.ndim > 1 else scores[None]


def merge_difference(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> MergeDifference:
    """Compare what :func:`logits_of` gave for the same rows."""
    gaps = [(one - other).abs() for one, other in zip(before, after, strict=True)]
    numbers = sum(gap.numel() for gap in gaps)
    return MergeDifference(
        largest=max(float(gap.max()) for gap in gaps),
        mean=sum(float(gap.double().sum()) for gap in gaps) / numbers,
        tokens=sum(len(gap) for gap in gaps),
    )
