"""Models that learn virtual tokens before every text (prompt tuning, p-tuning, prefix tuning), in packs and in answers.

Virtual tokens are a beginning that all rows share. So they are the root segment of a pack, computed once for all rows,
and the prefix of the cache when answers are made; a row's own tokens come after them, as in the PEFT library.

Shape suffixes: T tokens of the pack, N virtual tokens, L labels, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from tunesmith.errors import ModelError
from tunesmith.models.attention import ATTENTION, PackPlan, plan_attention
from tunesmith.models.running import running

if TYPE_CHECKING:
    from tunesmith.data.types import Pack

KeyValue = tuple[torch.Tensor, torch.Tensor]


def is_prompted(model: Any) -> bool:
    """Whether a model is wrapped by a method that learns virtual tokens, and these are not turned off just now."""
    if not hasattr(model, "active_peft_config") or not model.active_peft_config.is_prompt_learning:
        return False
    return not getattr(model, "_adapters_disabled", False)


def virtual_token_count(model: Any) -> int:
    """How many virtual tokens stand before every text; 0 for other models."""
    return int(model.active_peft_config.num_virtual_tokens) if is_prompted(model) else 0


def virtual_tokens(model: Any) -> torch.Tensor | list[KeyValue]:
    """What was learned: embeddings ``[1, N, hidden]``, or a layer's keys and values ``[1, key heads, N, size]``.

    Raises:
        ModelError: ``model.virtual_tokens``: the model's window is shorter than what was learned.
    """
    prompt = model.get_prompt(batch_size=1)
    if isinstance(prompt, torch.Tensor):
        return prompt
    found = [(layer.keys, layer.values) for layer in prompt.layers]
    count, shortest = virtual_token_count(model), min(keys.shape[2] for keys, _ in found)
    if shortest < count:
        raise ModelError(
            "more virtual tokens are learned than the model's window holds",
            code="model.virtual_tokens",
            place="technique.settings.num_virtual_tokens",
            value=f"{count} tokens, {shortest} of them seen",
            hint="learn fewer, or choose technique: prompt_tuning",
        )
    return found


def prompted_logits(model: Any, pack: Pack) -> torch.Tensor:
    """As :func:`tunesmith.models.forward.label_logits`, with the virtual tokens before every row; ``[L, V]``.

    Raises:
        ModelError: The model's family is not one of those whose packs are tested.
    """
    inner = model.base_model
    if inner.config._attn_implementation != ATTENTION:
        raise ModelError(
            "virtual tokens are learned in packs, which are not tested for this family of models",
            code="model.virtual_tokens",
            place="technique",
            value=inner.config.model_type,
            hint="choose technique: lora",
        )
    device, count = inner.device, virtual_token_count(model)
    own_T = torch.tensor(pack.position_ids_T, device=device) + count
    plan = _plan(pack, count, torch.cat([torch.arange(count, device=device), own_T]))
    learned = virtual_tokens(model)
    labels_at_L = torch.tensor(pack.label_positions_L, device=device)
    token_ids_T = torch.tensor(pack.token_ids_T, device=device)
    if isinstance(learned, torch.Tensor):
        with running(pack):
            embedded = inner.get_input_embeddings()(token_ids_T[None])
        out = inner(
            inputs_embeds=torch.cat([learned.to(embedded.dtype), embedded], dim=1),
            position_ids=torch.cat([torch.arange(count, device=device), own_T])[None],
            logits_to_keep=labels_at_L + count,
            use_cache=False,
            pack_plan=plan,
        )
    else:
        with running(pack):
            out = inner(
                input_ids=token_ids_T[None],
                position_ids=own_T[None],
                logits_to_keep=labels_at_L,
                use_cache=False,
                pack_plan=behind(plan, learned),
            )
    logits_LV: torch.Tensor = out.logits[0]
    return logits_LV


def behind(plan: PackPlan, past: list[KeyValue]) -> PackPlan:
    """A plan whose first segment has keys and values of its own in every layer, and no queries."""
    return replace(plan, blocks=plan.blocks[1:], block_sizes=plan.block_sizes[1:], past=past, varlen=None)


def _plan(pack: Pack, count: int, positions_NT: torch.Tensor) -> PackPlan:
    """The pack's plan with the virtual tokens as the root of every row."""
    segment = type(pack.segments[0])
    shifted = [
        segment(one.start + count, one.end + count, 0 if one.parent is None else one.parent + 1)
        for one in pack.segments
    ]
    return plan_attention([segment(0, count), *shifted], positions_NT)
