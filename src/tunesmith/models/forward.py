"""One pack through a model that writes, with logits only where something is learned.

Shape suffixes: T tokens of the pack, L labels, V vocabulary, H size of a hidden state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tunesmith.errors import ModelError
from tunesmith.models.attention import ATTENTION, PACKED_FAMILIES, plan_attention
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


def label_states(model: Any, pack: Pack) -> tuple[torch.Tensor, torch.Tensor] | None:
    """What scores of the next token are made of: states at the labels ``[L, H]``, a frozen matrix ``[V, H]``.

    ``states @ matrix.T`` are the scores that :func:`label_logits` gives. None where they are more than that product
    (a bias, a cap, virtual tokens), or where the matrix is trained, quantized or shared out over processes.

    Raises:
        ModelError: As :func:`label_logits`.
    """
    matrix = _output_matrix(model)
    if matrix is None:
        return None
    states: list[torch.Tensor] = []

    def keep(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        states.append(inputs[0])
        # The model goes on with no position at all, so that no scores are made.
        return (inputs[0][:, :0],)

    with model.get_output_embeddings().register_forward_pre_hook(keep):
        label_logits(model, pack)
    return torch.cat([one.squeeze(0) for one in states]), matrix


def _output_matrix(model: Any) -> torch.Tensor | None:
    config, head = model.config, model.get_output_embeddings()
    # In the tested families nothing but a cap is done to what the output matrix gives.
    if is_prompted(model) or config.model_type not in PACKED_FAMILIES or type(head) is not nn.Linear:
        return None
    if getattr(config, "final_logit_softcapping", None) or head.bias is not None:
        return None
    weight = head.weight
    if weight.requires_grad or type(weight) is not nn.Parameter or hasattr(weight, "ds_id"):
        return None
    return weight


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
    # Not [0]: the gradient of an index is first filled with zeros, the one of a lost dimension is the same memory.
    logits_LV: torch.Tensor = out.logits.squeeze(0)
    return logits_LV
