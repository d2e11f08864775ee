"""One pack through a model that writes, with logits only where something is learned.

Shape suffixes: T tokens of the pack, L labels, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tunesmith.errors import ModelError
from tunesmith.models.attention import ATTENTION, plan_attention
from tunesmith.models.prompted import is_prompted, prompted_logits
from tunesmith.models.running import running

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
    if is_prompted(model):
        return prompted_logits(model, pack)
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


def written_logits(model: Any, pack: Pack) -> torch.Tensor:
    """Scores of each token that a model with encoder and decoder should write, ``[L, V]``, in the order of the labels.

    Args:
        model: A model with encoder and decoder, plain or wrapped by PEFT.
        pack: Rows without a shared prefix; in each, what is read comes before the first trained token and what is
            written behind it.
    """
    return torch.cat([_written_row(model, row) for row in pack.rows_alone()])


def _written_row(model: Any, row: Pack) -> torch.Tensor:
    device = model.device
    read = int(row.label_positions_L[0]) + 1
    source_T = torch.tensor(row.token_ids_T[:read], device=device)[None]
    target_L = torch.tensor(row.labels_L, device=device)
    start = target_L.new_tensor([model.config.decoder_start_token_id])
    out = model(
        input_ids=source_T,
        attention_mask=torch.ones_like(source_T),
        decoder_input_ids=torch.cat([start, target_L[:-1]])[None],
        use_cache=False,
    )
    logits_LV: torch.Tensor = out.logits[0]
    return logits_LV


def _logits(model: Any, pack: Pack, **extra: Any) -> torch.Tensor:
    device = model.device
    with running(pack):
        out = model(
            input_ids=torch.tensor(pack.token_ids_T, device=device)[None],
            position_ids=torch.tensor(pack.position_ids_T, device=device)[None],
            logits_to_keep=torch.tensor(pack.label_positions_L, device=device),
            use_cache=False,
            **extra,
        )
    logits_LV: torch.Tensor = out.logits[0]
    return logits_LV
