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
            pack; with the library's own attention only packs of one segment.
        pack: Goes to the model's device.

    Raises:
        ModelError: The pack has several segments and the model's attention would let them see each other.
    """
    device = model.device
    positions_T = torch.tensor(pack.position_ids_T, device=device)
    extra: dict[str, Any] = {}
    if model.config._attn_implementation == ATTENTION:
        extra["pack_plan"] = plan_attention(pack.segments, positions_T)
    elif len(pack.segments) > 1:
        raise ModelError(
            "rows of a pack would see each other under the model's attention",
            code="model.attention",
            value=model.config._attn_implementation,
            hint=f'load the model with attention "{ATTENTION}", or lay out one row a pack',
        )
    out = model(
        input_ids=torch.tensor(pack.token_ids_T, device=device)[None],
        position_ids=positions_T[None],
        logits_to_keep=torch.tensor(pack.label_positions_L, device=device),
        use_cache=False,
        **extra,
    )
    logits_LV: torch.Tensor = out.logits[0]
    return logits_LV
