"""Any method of the PEFT library by its name, with the settings that the library gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn

from tunesmith.data.types import TokenRow
from tunesmith.errors import ModelError
from tunesmith.techniques.adapter import (
    adapter_config,
    adapter_state,
    merge_adapter,
    save_adapter,
    wrap,
)
from tunesmith.techniques.base import State, load_trainable_state, parameter_groups, trainable_state
from tunesmith.techniques.method_config import method_config
from tunesmith.techniques.peft_methods import METHODS
from tunesmith.techniques.targets import Targets


@dataclass(frozen=True)
class PeftMethod:
    """A method of the library; see :class:`tunesmith.techniques.base.Technique` for each method of this class.

    ``targets`` may be ``auto``: the layers that the method was made for. ``settings`` go before those of the table.
    """

    name: str
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
        """Put the method on the model; its weights are fp32 at least.

        Raises:
            RecipeError: A setting is not one of the method's, or has a value that it does not take.
            ModelError: The model has no layers for the method, or is too small for its settings.
        """
        return wrap(model, method_config(model, self.name, self.targets, self.settings), seed)

    def parameter_groups(self, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """The method's weights."""
        return parameter_groups(model, weight_decay)

    def regularize(self, model: nn.Module) -> None:
        """No penalty."""

    def after_update(self, model: nn.Module, step: int, total_steps: int) -> None:
        """Nothing."""

    def trainable_state(self, model: nn.Module) -> State:
        """The method's weights."""
        return trainable_state(model)

    def load_trainable_state(self, model: nn.Module, state: State) -> None:
        """Put the method's weights back."""
        load_trainable_state(model, state)

    def save(self, model: nn.Module, folder: Path, base_model: str | None = None) -> None:
        """``adapter_model.safetensors`` and ``adapter_config.json``, as PEFT reads them."""
        save_adapter(adapter_state(model), adapter_config(model), folder, base_model)

    def merge(self, model: nn.Module) -> nn.Module:
        """A copy with the change worked into the weights.

        Raises:
            ModelError: ``model.merge``: the method cannot be merged, or a merged weight would not be finite.
        """
        require_mergeable(self.name)
        return merge_adapter(model)


def require_mergeable(name: str) -> None:
    """Refuse methods that have nothing to work into weights.

    Raises:
        ModelError: ``model.merge``.
    """
    if name in METHODS and not METHODS[name].merges:
        raise ModelError(
            f"{name} cannot be merged: what it learned is not a change of the model's weights",
            code="model.merge",
            place="technique",
            value=name,
            hint="use the adapter beside its base, or train with technique: lora",
        )
