"""NEFTune: uniform noise on the embeddings of a text while it is trained on (Jain et al. 2023).

Each number of a row of ``n`` tokens and ``H`` numbers a token gets noise of at most ``alpha / sqrt(n H)``. Rows of a
pack have lengths of their own, so whoever runs a pack says which one it is.

Shape suffixes: T tokens of a pack, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tunesmith.models.running import running_pack


@contextmanager
def noisy_embeddings(model: Any, alpha: float | None) -> Iterator[None]:
    """Add noise to the embeddings of a model in training mode for the time of the block; none without ``alpha``.

    Numbers are drawn from torch's own generator, which every step seeds anew.
    """
    if alpha is None:
        yield
        return

    def add(module: Any, _inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return embedded
        scale = alpha / (_lengths(embedded) * embedded.shape[-1]) ** 0.5
        return embedded + (2 * torch.rand_like(embedded) - 1) * scale.to(embedded)

    handle = model.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _lengths(embedded: torch.Tensor) -> torch.Tensor:
    """Tokens of the row that each token is of, ``[T, 1]``; all are of one row where no pack is known."""
    pack, tokens = running_pack(), embedded.shape[-2]
    if pack is None or pack.tokens != tokens:
        return torch.full((tokens, 1), float(tokens), device=embedded.device)
    sizes = torch.tensor([segment.end - segment.start for segment in pack.segments], device=embedded.device)
    return sizes.repeat_interleave(sizes)[:, None].float()
