"""AdaLoRA: low-rank adapters whose ranks move to the layers that need them (Zhang et al. 2023).

The library measures how much each singular value matters from gradients, and masks the least of them on a schedule over
all steps. What it has measured so far is part of what a training must remember.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from tunesmith.data.types import TokenRow
from tunesmith.techniques.adapter import ADAPTER, adapter_config, adapter_state, merge_adapter, save_adapter, wrap
from tunesmith.techniques.base import State, load_trainable_state, parameter_groups, trainable_state
from tunesmith.techniques.method_config import method_config
from tunesmith.techniques.targets import Targets

# Ranks stay as they are in the first tenth of the steps, and again in the last three tenths.
_FIRST, _LAST = 0.1, 0.3
_MEASURED = ("ipt", "exp_avg_ipt", "exp_avg_unc")
_PREFIX = "allocator."


@dataclass(frozen=True)
class AdaLora:
    """See :class:`tunesmith.techniques.base.Technique` for each method; fields are those of the recipe."""

    targets: Targets = "auto"
    settings: Mapping[str, Any] = field(default_factory=dict)
    artifact: ClassVar[Literal["adapter", "model"]] = "adapter"
    quantization: ClassVar[None] = None

    def prepare(
        self,
        model: nn.Module,
        seed: int,
        sample: Sequence[TokenRow] = (),  # noqa: ARG002 - begins without data
        new_token_ids: Sequence[int] = (),  # noqa: ARG002 - refused with the recipe
    ) -> nn.Module:
        """Adapters with the largest ranks that they may have.

        Raises:
            RecipeError, ModelError: As :func:`tunesmith.techniques.method_config.method_config`.
        """
        # The library wants the steps now; the schedule gets the true ones before each update.
        settings = {"total_step": 1_000_000, **self.settings}
        wrapped = wrap(model, method_config(model, "adalora", self.targets, settings), seed)
        # How many ranks are left is no weight; of a model without weights the library lets it train.
        for name, parameter in wrapped.named_parameters():
            if ".ranknum." in name:
                parameter.requires_grad_(False)
        return wrapped

    def parameter_groups(self, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """The adapters' matrices and singular values."""
        return parameter_groups(model, weight_decay)

    def regularize(self, model: nn.Module) -> None:
        """Keep the singular vectors orthogonal, with the weight of the config."""
        weight = _config(model).orth_reg_weight
        gaps = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and (".lora_A." in name or ".lora_B." in name):
                square = parameter @ parameter.T if ".lora_A." in name else parameter.T @ parameter
                gaps.append(torch.linalg.matrix_norm(square - torch.eye(len(square), out=torch.empty_like(square))))
        if gaps:
            (weight * torch.stack(gaps).mean()).backward()

    def after_update(self, model: nn.Module, step: int, total_steps: int) -> None:
        """Measure what matters and mask the rest."""
        config = _config(model)
        config.total_step = total_steps
        config.tinit, config.tfinal = int(_FIRST * total_steps), max(1, int(_LAST * total_steps))
        last = total_steps - config.tfinal
        # Ranks are fixed at one certain step, which is passed over where a step is refused or the end moves closer.
        _tuner(model).update_and_allocate(last if step + 1 > last and config.rank_pattern is None else step + 1)

    def trainable_state(self, model: nn.Module) -> State:
        """The adapters' weights, what was measured, and the ranks where they are fixed already."""
        state = trainable_state(model)
        allocator = _allocator(model)
        for kind in _MEASURED:
            state |= {f"{_PREFIX}{kind}.{name}": value for name, value in getattr(allocator, kind).items()}
        for name, kept in (_config(model).rank_pattern or {}).items():
            state[f"{_PREFIX}rank_pattern.{name}"] = torch.as_tensor(kept)
        return state

    def load_trainable_state(self, model: nn.Module, state: State) -> None:
        """Put all of it back."""
        load_trainable_state(model, {key: value for key, value in state.items() if not key.startswith(_PREFIX)})
        allocator = _allocator(model)
        ranks: dict[str, list[bool]] = {}
        for key, value in state.items():
            if not key.startswith(_PREFIX):
                continue
            kind, _, name = key.removeprefix(_PREFIX).partition(".")
            if kind == "rank_pattern":
                ranks[name] = value.tolist()
            else:
                getattr(allocator, kind)[name] = value.clone()
        _config(model).rank_pattern = ranks or None

    def save(self, model: nn.Module, folder: Path, base_model: str | None = None) -> None:
        """``adapter_model.safetensors`` and ``adapter_config.json``, as PEFT reads them.

        Masked ranks are written as the zeros that they are: cut away, as the library would, they change the scale.
        """
        own, config = _config(model), adapter_config(model)
        config.rank_pattern = None
        ranks, own.rank_pattern = own.rank_pattern, None
        try:
            save_adapter(adapter_state(model), config, folder, base_model)
        finally:
            own.rank_pattern = ranks

    def merge(self, model: nn.Module) -> nn.Module:
        """A copy with the updates added to the weights."""
        return merge_adapter(model)


def _tuner(model: nn.Module) -> Any:
    untyped: Any = model
    return untyped.base_model


def _config(model: nn.Module) -> Any:
    return _tuner(model).peft_config[ADAPTER]


def _allocator(model: nn.Module) -> Any:
    return _tuner(model).rankallocator
