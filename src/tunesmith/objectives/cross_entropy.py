"""Cross entropy of each label in fp32, without the scores of all labels, or without a second copy of them, in memory.

PyTorch's own function keeps log probabilities as large as the scores (201 MB for 1,024 labels of a vocabulary of
49,152) beside the scores and their gradient. This one keeps one number a label and makes the rest again in chunks
that stay in the cache; on 2 cores head and loss together took 0.8 s instead of 2.0 s at that size.

Where the matrix that makes the scores is frozen, not even those are kept: they are made for a few labels at a time, and
since the loss of a label is a number, the gradient of its state is known but for that number's own gradient:

    d loss / d state = softmax(scores) W - W[label]

Shape suffixes: L labels, V vocabulary, C labels of one chunk, H size of a hidden state.
"""

from __future__ import annotations

from typing import Any

import torch

_CHUNK_ELEMENTS = 2**22
# Here each chunk is two products with the whole matrix: measured, fewer labels at a time than these are slower.
_PROJECTED_ELEMENTS = 2**24


def token_losses(
    logits_L_V: torch.Tensor, labels_L: torch.Tensor, smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each label, and whether no other token of the vocabulary had a higher score.

    Args:
        logits_L_V: Scores, in any floating type; arithmetic is fp32, or fp64 where the scores are fp64.
        labels_L: The right tokens.
        smoothing: Share of the probability that is wanted for all tokens alike (Szegedy et al. 2016).

    Returns:
        ``losses_L`` with gradient, in nats, and ``hits_L``, true or false.
    """
    losses_L, hits_L = _CrossEntropy.apply(logits_L_V, labels_L, smoothing)  # type: ignore[no-untyped-call]
    return losses_L, hits_L


def projected_losses(
    states_L_H: torch.Tensor, matrix_V_H: torch.Tensor, labels_L: torch.Tensor, smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`token_losses` of the scores ``states @ matrix.T``, which are in the type of autocast where that is on.

    Args:
        states_L_H: States that the scores are made of.
        matrix_V_H: Frozen: it gets no gradient.
        labels_L: The right tokens.
        smoothing: As there.
    """
    kind = states_L_H.device.type
    if torch.is_autocast_enabled(kind):
        states_L_H = states_L_H.to(torch.get_autocast_dtype(kind))
    with torch.autocast(kind, enabled=False):
        wanted = torch.is_grad_enabled() and states_L_H.requires_grad
        losses_L, hits_L = _ProjectedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            states_L_H, matrix_V_H.detach().to(states_L_H.dtype), labels_L, smoothing, wanted
        )
    return losses_L, hits_L


class _ProjectedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        states_L_H: torch.Tensor,
        matrix_V_H: torch.Tensor,
        labels_L: torch.Tensor,
        smoothing: float,
        wanted: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = torch.promote_types(states_L_H.dtype, torch.float32)
        losses_L = torch.empty(len(labels_L), dtype=dtype, device=states_L_H.device)
        hits_L = torch.empty(len(labels_L), dtype=torch.bool, device=states_L_H.device)
        slopes_L_H = torch.empty_like(states_L_H) if wanted else states_L_H.new_empty(0)
        mean_H = matrix_V_H.mean(0) if smoothing else None
        chunk = max(1, _PROJECTED_ELEMENTS // len(matrix_V_H))
        for start in range(0, len(labels_L), chunk):
            own = slice(start, start + chunk)
            labels_C, states_C_H = labels_L[own], states_L_H[own]
            scores_C_V = (states_C_H @ matrix_V_H.T).to(dtype)
            score_C = scores_C_V.gather(1, labels_C[:, None])[:, 0]
            highest_C = scores_C_V.amax(-1)
            hits_L[own] = score_C >= highest_C
            weights_C_V = scores_C_V.sub_(highest_C[:, None]).exp_()
            sums_C = weights_C_V.sum(-1)
            losses_L[own] = highest_C + sums_C.log() - (1 - smoothing) * score_C
            if mean_H is not None:
                losses_L[own] -= smoothing * (states_C_H @ mean_H).to(dtype)
            if wanted:
                slopes_C_H = (weights_C_V.to(matrix_V_H.dtype) @ matrix_V_H).to(dtype) / sums_C[:, None]
                slopes_C_H -= (1 - smoothing) * matrix_V_H[labels_C]
                slopes_L_H[own] = slopes_C_H if mean_H is None else slopes_C_H - smoothing * mean_H
        ctx.save_for_backward(slopes_L_H)
        ctx.mark_non_differentiable(hits_L)
        return losses_L, hits_L

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        (slopes_L_H,) = ctx.saved_tensors
        return (slopes_L_H * gradients[0][:, None]).to(slopes_L_H.dtype), None, None, None, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_L_V: torch.Tensor, labels_L: torch.Tensor, smoothing: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.smoothing = smoothing
        dtype = torch.promote_types(logits_L_V.dtype, torch.float32)
        ctx.chunk = max(1, _CHUNK_ELEMENTS // logits_L_V.shape[1])
        log_sums, hits, scores = [], [], []
        for raw_C_V, labels_C in zip(torch.split(logits_L_V, ctx.chunk), torch.split(labels_L, ctx.chunk), strict=True):
            logits_C_V = raw_C_V.to(dtype)
            highest_C = logits_C_V.amax(-1)
            score_C = logits_C_V.gather(1, labels_C[:, None])[:, 0]
            log_sums.append(highest_C + (logits_C_V - highest_C[:, None]).exp_().sum(-1).log_())
            hits.append(score_C >= highest_C)
            wanted_C = score_C if not smoothing else (1 - smoothing) * score_C + smoothing * logits_C_V.mean(-1)
            scores.append(wanted_C)
        log_sums_L, hits_L = torch.cat(log_sums), torch.cat(hits)
        ctx.save_for_backward(logits_L_V, labels_L, log_sums_L)
        ctx.mark_non_differentiable(hits_L)
        return log_sums_L - torch.cat(scores), hits_L

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        logits_L_V, labels_L, log_sums_L = ctx.saved_tensors
        gradient_L_V = torch.empty_like(logits_L_V)
        pieces = (logits_L_V, labels_L, log_sums_L, gradients[0], gradient_L_V)
        for logits_C_V, labels_C, log_sums_C, gradient_C, out_C_V in zip(
            *(torch.split(piece, ctx.chunk) for piece in pieces), strict=True
        ):
            probabilities_C_V = (logits_C_V.to(log_sums_C.dtype) - log_sums_C[:, None]).exp_()
            if ctx.smoothing:
                probabilities_C_V -= ctx.smoothing / probabilities_C_V.shape[1]
            wanted_C = torch.full_like(log_sums_C, ctx.smoothing - 1)
            probabilities_C_V.scatter_add_(1, labels_C[:, None], wanted_C[:, None])
            out_C_V.copy_(probabilities_C_V.mul_(gradient_C[:, None]))
        return gradient_L_V, None, None
