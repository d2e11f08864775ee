"""One pack through a model with a head: scores of labels where the pack has labels, and nowhere else.

Shape suffixes: T tokens of the pack, L labels of the pack, C classes of the head, H hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tunesmith.catalog.heads import OUTPUT_LAYERS
from tunesmith.models.attention import ATTENTION, BIDIRECTIONAL_FAMILIES, PACKED_FAMILIES, plan_attention
from tunesmith.models.running import running

if TYPE_CHECKING:
    from tunesmith.data.types import Pack


def head_logits(model: Any, pack: Pack) -> torch.Tensor:
    """Scores of each class at each label position, ``[L, C]``, in the model's type.

    A head that classifies rows has one label a row, at the token whose state its class reads: the first one of models
    that read both ways, the last one of models that read on. A head that marks answers has 2 classes, start and end.

    Args:
        model: A model with a head, plain or wrapped by PEFT. With the attention for packs it takes any pack; in all
            other cases rows go through one after another.
        pack: Labels stand at their own tokens; goes to the model's device.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    prompted = any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values())
    if inner.config.model_type not in PACKED_FAMILIES or prompted:
        # What PEFT puts before a text is put there by its own forward.
        return torch.cat([_through_own_forward(model, row) for row in pack.rows_alone()])
    if inner.config._attn_implementation == ATTENTION:
        positions_T = torch.tensor(pack.position_ids_T, device=model.device)
        with running(pack):
            return _through_base(inner, pack, pack_plan=plan_attention(pack.segments, positions_T))
    return torch.cat([_through_base(inner, row) for row in pack.rows_alone()])


def _through_base(inner: Any, pack: Pack, **extra: Any) -> torch.Tensor:
    """The model below the head, then the head on the states that have a label."""
    device = inner.device
    base = getattr(inner, inner.base_model_prefix)
    if inner.config.model_type not in BIDIRECTIONAL_FAMILIES:
        extra["use_cache"] = False
    out = base(
        input_ids=torch.tensor(pack.token_ids_T, device=device)[None],
        position_ids=torch.tensor(pack.position_ids_T, device=device)[None],
        **extra,
    )
    states_L_H = out.last_hidden_state[0, torch.tensor(pack.label_positions_L, device=device)]
    if getattr(base, "pooler", None) is not None:
        states_L_H = base.pooler(states_L_H[:, None])
    if hasattr(inner, "dropout"):
        states_L_H = inner.dropout(states_L_H)
    logits_L_C: torch.Tensor = _output_layer(inner)(states_L_H)
    return logits_L_C


def _output_layer(inner: Any) -> Any:
    return next(getattr(inner, name) for name in OUTPUT_LAYERS if hasattr(inner, name))


def _through_own_forward(model: Any, row: Pack) -> torch.Tensor:
    device = model.device
    input_ids = torch.tensor(row.token_ids_T, device=device)[None]
    out = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
    if hasattr(out, "start_logits"):
        logits = torch.stack([out.start_logits[0], out.end_logits[0]], dim=-1)
    else:
        logits = out.logits[0]
    if logits.ndim == 1:
        return logits[None]
    # Virtual tokens that PEFT put before the text have states too.
    own_T_C = logits[-len(row.token_ids_T) :]
    return own_T_C[torch.tensor(row.label_positions_L, device=device)]
