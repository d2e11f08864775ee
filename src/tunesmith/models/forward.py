"""One pack through a model, with logits only where something is learned.

Shape suffixes: T tokens of the pack, L labels, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tunesmith.errors import ModelError
from tunesmith.models.attention import ATTENTION, plan_attention

if TYPE_CHECKING:
    from tunesmith.data.types import Pack


def label_logits(model: Any, pack: Pack) -> torch.Tensor:
    """Scores of the next token at each label position, ``[L, V]``, in the model's type.

    Args:
        model: A causal language model, plain or wrapped by PEFT. With the attention :data:`ATTENTION` it takes any
            pack; with the library's own attention rows go through one after another, and may share no prefix.
        pack: Goes to the model's device.

    Raises:
        ModelError: Rows share a prefix, which the model's attention cannot do.
    """
    if model.config._attn_implementation == ATTENTION:
        positions_T = torch.tensor(pack.position_ids_T, device=model.device)
        return _logits(model, pack, pack_plan=plan_attention(pack.segments, positions_T))
    if any(segment.parent is not None for segment in pack.segments):
        raise ModelError(
            "rows of a pack share a prefix, which the model's attention cannot do",
            code="model.attention",
            value=model.config._attn_implementation,
            hint=f'load the model with attention "{ATTENTION}", or lay rows out without a shared prefix',
        )
    return torch.cat([_logits(model, row) for row in pack.rows_alone()])


def _logits(model: Any, pack: Pack, **extra: Any) -> torch.Tensor:
    device = model.device
    out = model(
        input_ids=torch.tensor(pack.token_ids_T, device=device)[None],
        position_ids=torch.tensor(pack.position_ids_T, device=device)[None],
        logits_to_keep=torch.tensor(pack.label_positions_L, device=device),
        use_cache=False,
        **extra,
    )
    logits_LV: torch.Tensor = out.logits[0]
    return logits_LV
