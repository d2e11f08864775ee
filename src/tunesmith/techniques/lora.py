"""LoRA through the PEFT library: a low-rank update beside each target layer trains, the model itself stays."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ModelError
from tunesmith.techniques.base import (
    State,
    load_trainable_state,
    parameter_groups,
    trainable_state,
    without_dropout,
)
from tunesmith.techniques.saving import telling_save_errors
from tunesmith.techniques.targets import Targets, target_names

_ADAPTER = "default"


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters; see :class:`tunesmith.techniques.base.Technique` for each method.

    ``alpha / rank`` scales the update. ``targets`` is ``all-linear`` (every linear layer of the decoder, not the
    output head), ``attention``, or names of layers. ``dropout`` acts on the adapters' inputs alone.
    """

    rank: int = 16
    alpha: float = 32
    targets: Targets = "all-linear"
    dropout: float = 0.0
    artifact: ClassVar[Literal["adapter", "model"]] = "adapter"

    def prepare(self, model: nn.Module, seed: int) -> nn.Module:
        """Put adapters on the target layers; their weights are fp32 (fp64 in an fp64 model) and depend on ``seed``."""
        without_dropout(model)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=cast(int, self.alpha),
            lora_dropout=self.dropout,
            target_modules=target_names(model, self.targets),
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # PEFT asks for a property by a name that Transformers has just deprecated.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            torch.manual_seed(seed)
            return get_peft_model(cast(PreTrainedModel, model), config)

    def parameter_groups(self, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """The adapters' matrices."""
        return parameter_groups(model, weight_decay)

    def regularize(self, model: nn.Module) -> None:
        """No penalty."""

    def after_update(self, model: nn.Module, step: int, total_steps: int) -> None:
        """Nothing."""

    def trainable_state(self, model: nn.Module) -> State:
        """The adapters' weights."""
        return trainable_state(model)

    def load_trainable_state(self, model: nn.Module, state: State) -> None:
        """Put the adapters' weights back."""
        load_trainable_state(model, state)

    def save(self, model: nn.Module, folder: Path, base_model: str | None = None) -> None:
        """``adapter_model.safetensors`` and ``adapter_config.json``, as PEFT reads them.

        PEFT's own ``save_pretrained`` may ask the hub about the base model and writes a model card of placeholders,
        so its parts are called one by one.
        """
        adapted = cast(PeftModel, model)
        state = get_peft_model_state_dict(adapted, adapter_name=_ADAPTER, save_embedding_layers=False)
        config = copy.copy(adapted.peft_config[_ADAPTER])
        config.inference_mode = True
        if base_model is not None:
            config.base_model_name_or_path = base_model
        with telling_save_errors(folder):
            save_file(
                {name: tensor.contiguous() for name, tensor in state.items()},
                folder / "adapter_model.safetensors",
                metadata={"format": "pt"},
            )
            config.save_pretrained(str(folder))

    def merge(self, model: nn.Module) -> nn.Module:
        """A copy with the updates added to the weights; needs the memory of a second model.

        Raises:
            ModelError: A merged weight would not be finite.
        """
        merged = copy.deepcopy(cast(PeftModel, model))
        try:
            return cast(nn.Module, merged.merge_and_unload(safe_merge=True))
        except ValueError as error:
            raise ModelError("the adapter cannot be merged", code="model.merge", value=str(error)) from error
