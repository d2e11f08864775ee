"""Full fine-tuning: every weight of the model trains."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from tunesmith.data.types import TokenRow
from tunesmith.techniques.base import (
    State,
    load_trainable_state,
    parameter_groups,
    trainable_state,
    without_dropout,
)
from tunesmith.techniques.saving import save_model


@dataclass(frozen=True)
class Full:
    """All parameters; see :class:`tunesmith.techniques.base.Technique` for each method."""

    artifact: ClassVar[Literal["adapter", "model"]] = "model"
    quantization: ClassVar[None] = None

    def prepare(
        self,
        model: nn.Module,
        seed: int,  # noqa: ARG002 - nothing is drawn at random
        sample: Sequence[TokenRow] = (),  # noqa: ARG002
        new_token_ids: Sequence[int] = (),  # noqa: ARG002 - they train like all others
    ) -> nn.Module:
        """All weights train, in fp32 at least: updates are smaller than the steps between two bf16 numbers."""
        without_dropout(model)
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
                parameter.requires_grad_(True)
        return model

    def parameter_groups(self, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """Matrices, and vectors without decay."""
        return parameter_groups(model, weight_decay)

    def regularize(self, model: nn.Module) -> None:
        """No penalty."""

    def after_update(self, model: nn.Module, step: int, total_steps: int) -> None:
        """Nothing."""

    def trainable_state(self, model: nn.Module) -> State:
        """All weights, tied ones once."""
        return trainable_state(model)

    def load_trainable_state(self, model: nn.Module, state: State) -> None:
        """Put all weights back."""
        load_trainable_state(model, state)

    def save(self, model: nn.Module, folder: Path, base_model: str | None = None) -> None:  # noqa: ARG002
        """Config and safetensors, as Transformers writes them."""
        save_model(cast(PreTrainedModel, model), folder)

    def merge(self, model: nn.Module) -> nn.Module:
        """A copy: there is nothing to work in."""
        return copy.deepcopy(model)
