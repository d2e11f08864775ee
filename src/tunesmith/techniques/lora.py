"""LoRA and DoRA through the PEFT library: a low-rank update beside each target layer trains, the model itself stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn

from tunesmith.data.types import TokenRow
from tunesmith.models.quantized import Quantization
from tunesmith.techniques.adapter import merge_adapter
from tunesmith.techniques.base import State
from tunesmith.techniques.low_rank import adapt, load_low_rank_state, low_rank_groups, low_rank_state, save_low_rank
from tunesmith.techniques.targets import Targets


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters; see :class:`tunesmith.techniques.base.Technique` for each method.

    ``targets`` is ``all-linear`` (every linear layer of the decoder, not the output head), ``attention``, or names of
    layers. ``dropout`` acts on the adapters' inputs alone. ``decomposed`` makes it DoRA, ``quantization`` QLoRA
    (Dettmers et al. 2023). The other fields are those of :class:`tunesmith.recipe.techniques.Lora`.
    """

    rank: int = 16
    alpha: float = 32
    targets: Targets = "all-linear"
    dropout: float = 0.0
    rank_stabilized: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    learning_rate_ratio: float = 1.0
    initialization: str = "default"
    decomposed: bool = False
    quantization: Quantization | None = None
    artifact: ClassVar[Literal["adapter", "model"]] = "adapter"

    def prepare(
        self, model: nn.Module, seed: int, sample: Sequence[TokenRow] = (), new_token_ids: Sequence[int] = ()
    ) -> nn.Module:
        """Put adapters on the target layers; see :func:`tunesmith.techniques.low_rank.adapt`."""
        return adapt(model, self, seed, sample, new_token_ids, decomposed=self.decomposed)

    def parameter_groups(self, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """The adapters' matrices, with a rate of their own for B where it was asked for."""
        return low_rank_groups(model, weight_decay, self.learning_rate_ratio)

    def regularize(self, model: nn.Module) -> None:
        """No penalty."""

    def after_update(self, model: nn.Module, step: int, total_steps: int) -> None:
        """Nothing."""

    def trainable_state(self, model: nn.Module) -> State:
        """The adapters' weights, and their beginning where it changed the frozen weights."""
        return low_rank_state(model)

    def load_trainable_state(self, model: nn.Module, state: State) -> None:
        """Put the adapters' weights back."""
        load_low_rank_state(model, state)

    def save(self, model: nn.Module, folder: Path, base_model: str | None = None) -> None:
        """``adapter_model.safetensors`` and ``adapter_config.json``, as PEFT reads them."""
        save_low_rank(model, folder, base_model)

    def merge(self, model: nn.Module) -> nn.Module:
        """A copy with the updates added to the weights; needs the memory of a second model.

        Raises:
            ModelError: A merged weight would not be finite.
        """
        return merge_adapter(model)
