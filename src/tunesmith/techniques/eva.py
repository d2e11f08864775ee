"""EVA (Paischer et al. 2024): adapters begin with the directions in which the inputs of each layer spread most."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, initialize_lora_eva_weights

from tunesmith.data.packs import lay_out
from tunesmith.data.types import Pack, TokenRow
from tunesmith.errors import ModelError
from tunesmith.models.forward import label_logits

_TOKENS_PER_PACK = 2048
# PEFT computes so many times the rank, gives each layer its share of the total, and needs as many inputs at once.
_SPARE = 2


@dataclass(frozen=True)
class _Batch:
    """A pack for PEFT, which moves what it is given to the device; packs go there by themselves."""

    pack: Pack

    def to(self, _device: Any) -> _Batch:
        return self


def start_from_inputs(model: PeftModel, sample: Sequence[TokenRow], *, most_rank: int, seed: int) -> None:
    """Put the leading directions of each layer's inputs into its A matrix; ranks move to where inputs spread more.

    Args:
        model: With a fresh low-rank adapter.
        sample: Training rows.
        most_rank: The greatest rank that was asked for.
        seed: Of what is drawn.

    Raises:
        ModelError: The rows have fewer tokens than directions are wanted, or the directions cannot be found.
    """
    packs = lay_out(list(enumerate(sample)), tokens_per_micro_batch=_TOKENS_PER_PACK, share_prefix=False)
    batches = [_Batch(pack) for pack in packs if pack.tokens >= _SPARE * most_rank]
    if not batches:
        raise ModelError(
            "there are too few tokens to see how the inputs of the layers spread",
            code="model.eva",
            place="technique.initialization",
            value=f"{max((pack.tokens for pack in packs), default=0)} tokens, {_SPARE * most_rank} directions",
            hint="lower technique.rank, or set technique.initialization=default",
        )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            initialize_lora_eva_weights(
                model,
                dataloader=batches,
                forward_fn=lambda wrapped, batch: label_logits(wrapped, batch.pack),
                prepare_model_inputs_fn=lambda _batch, _config: None,
                prepare_layer_inputs_fn=_inputs,
                show_progress_bar=False,
            )
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                "the inputs of the layers do not show enough directions",
                code="model.eva",
                place="technique.initialization",
                value=str(error).strip()[:200],
                hint="lower technique.rank, or set technique.initialization=default",
            ) from error


def _inputs(layer_input: Any, _model_input: Any, _name: str) -> torch.Tensor:
    """The inputs of a layer, one row for each token."""
    inputs: torch.Tensor = layer_input[0] if isinstance(layer_input, tuple) else layer_input
    return inputs.reshape(-1, inputs.shape[-1])
