"""Low-rank adapters of all kinds: from settings to a wrapped model, its optimizer groups, and what it must remember.

Some beginnings (PiSSA, OLoRA) move a part of the weights into the adapter, so that the frozen weight is
``W - s B0 A0``. The beginning ``A0, B0`` is kept beside the adapter: with it an adapter for the model as it was can be
written, of twice the rank, and a resumed training can make sure that it stands on the very same weights.

    wrapped = adapt(model, settings, seed)          # settings: whatever has the fields of LowRank
    save_low_rank(wrapped, folder, base_model)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from peft import EvaConfig, LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from tunesmith.data.types import TokenRow
from tunesmith.errors import ModelError, Problem
from tunesmith.recipe.techniques import MOVING
from tunesmith.techniques.adapter import ADAPTER, adapter_config, adapter_options, adapter_state, save_adapter, wrap
from tunesmith.techniques.base import State, load_state, parameter_groups, trainable_state
from tunesmith.techniques.eva import start_from_inputs
from tunesmith.techniques.loftq import start_from_loss_of_bits
from tunesmith.techniques.low_rank_layer import join_siblings, use_own_layers
from tunesmith.techniques.targets import Targets, require_patterns, target_names, targeted_layers

_BEGINNING = ("beginning_A", "beginning_B")


class LowRank(Protocol):
    """Settings of a low-rank adapter; see :class:`tunesmith.recipe.techniques.Lora` for what they mean."""

    @property
    def rank(self) -> int:
        """Rank of the adapters."""

    @property
    def alpha(self) -> float:
        """Their scale, together with the rank."""

    @property
    def targets(self) -> Targets:
        """Which layers get one."""

    @property
    def dropout(self) -> float:
        """Dropout before them."""

    @property
    def rank_stabilized(self) -> bool:
        """Whether the scale is alpha / sqrt(rank)."""

    @property
    def rank_pattern(self) -> Mapping[str, int]:
        """Other ranks by name."""

    @property
    def alpha_pattern(self) -> Mapping[str, float]:
        """Other alphas by name."""

    @property
    def initialization(self) -> str:
        """What they begin as."""


def adapt(
    model: nn.Module,
    settings: LowRank,
    seed: int,
    sample: Sequence[TokenRow] = (),
    new_token_ids: Sequence[int] = (),
    *,
    decomposed: bool = False,
) -> PeftModel:
    """Put low-rank adapters on the target layers; their weights are fp32 (fp64 in an fp64 model).

    Args:
        model: Changed in place.
        settings: Of the adapters.
        seed: Of new weights.
        sample: Training rows, from which ``eva`` learns how inputs are spread.
        new_token_ids: Tokens whose rows of the embeddings train as well.
        decomposed: Whether the length of each output's weights trains apart from its direction (DoRA, Liu et al. 2024).

    Raises:
        ModelError: A target or pattern names nothing, or the beginning does not suit the model.
    """
    names = target_names(model, settings.targets)
    layers = targeted_layers(model, names)
    for field in ("rank_pattern", "alpha_pattern"):
        require_patterns(layers, getattr(settings, field), f"technique.{field}")
    if settings.initialization in MOVING:
        _require_room(model, layers, settings)
    first = settings.initialization
    config = _config(
        **adapter_options(model, new_token_ids),
        r=settings.rank,
        lora_alpha=cast(int, settings.alpha),
        lora_dropout=settings.dropout,
        use_rslora=settings.rank_stabilized,
        use_dora=decomposed,
        # PEFT takes the first pattern that fits, so that the longest name, which says most, must come first.
        rank_pattern=_longest_first(settings.rank_pattern),
        alpha_pattern=_longest_first(settings.alpha_pattern),
        init_lora_weights=cast(Any, True if first in ("default", "eva", "loftq") else first),
        target_modules=names,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    if not config.fan_in_fan_out:
        use_own_layers(config)
    wrapped = wrap(model, config, seed)
    join_siblings(wrapped)
    if first in MOVING:
        for layer in _layers(wrapped).values():
            for name, matrices in zip(_BEGINNING, (layer.lora_A, layer.lora_B), strict=True):
                layer.register_buffer(name, matrices[ADAPTER].weight.detach().clone(), persistent=False)
    if first == "loftq":
        start_from_loss_of_bits(wrapped)
    if first == "eva":
        config.init_lora_weights, config.eva_config = "eva", EvaConfig()
        start_from_inputs(wrapped, sample, most_rank=max([settings.rank, *settings.rank_pattern.values()]), seed=seed)
    return wrapped


def _config(**options: Any) -> LoraConfig:
    """PEFT warns of what its own conversion of beginnings cannot do; :func:`save_low_rank` can."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using Rank-Stabilized LoRA", category=UserWarning)
        return LoraConfig(**options)


def low_rank_groups(model: nn.Module, weight_decay: float, learning_rate_ratio: float) -> list[dict[str, Any]]:
    """As :func:`tunesmith.techniques.base.parameter_groups`; B learns ``learning_rate_ratio`` times as fast as A.

    See LoRA+ (Hayou et al. 2024): B starts at zero and can bear a higher rate than A.
    """
    groups = parameter_groups(model, weight_decay)
    if learning_rate_ratio == 1:
        return groups
    fast = {id(parameter) for name, parameter in model.named_parameters() if ".lora_B." in name}
    split: list[dict[str, Any]] = []
    for group in groups:
        for is_fast, more in ((False, {}), (True, {"rate_scale": learning_rate_ratio})):
            chosen = [parameter for parameter in group["params"] if (id(parameter) in fast) is is_fast]
            if chosen:
                split.append({**group, "params": chosen, **more})
    return split


def low_rank_state(model: nn.Module) -> State:
    """The trained weights, and the beginning where it changed the frozen ones."""
    return {**trainable_state(model), **_beginning(model)}


@torch.no_grad()
def load_low_rank_state(model: nn.Module, state: State) -> None:
    """Put back what :func:`low_rank_state` gave, the frozen weights under it included.

    Raises:
        CheckpointError: Names or shapes are not those of this model.
    """
    layers = _layers(model).values()
    before = [_product(layer) for layer in layers] if _beginning(model) else []
    load_state(low_rank_state(model), state)
    for layer, old in zip(layers, before, strict=False):
        new = _product(layer)
        # Another machine may find other factors; on this one they are the same and nothing may change.
        if not torch.equal(old, new):
            weight = layer.get_base_layer().weight
            shift = (old - new) * layer.scaling[ADAPTER]
            weight += (shift.T if isinstance(layer.get_base_layer(), Conv1D) else shift).to(weight.dtype)


def save_low_rank(model: nn.Module, folder: Path, base_model: str | None) -> None:
    """Write the adapter for the model as it was loaded, in PEFT's format.

    Where the beginning moved weights, what was trained is ``s (B A - B0 A0)`` on the original weights: an adapter with
    both factors side by side, of twice the rank.

    Raises:
        OutputError: The disk is full or the folder cannot be written.
    """
    state, config = adapter_state(model), adapter_config(model)
    # Weights are read from the file, so that no beginning has to be computed on loading.
    config.init_lora_weights, config.eva_config = True, None
    if _beginning(model):
        for name, layer in _layers(model).items():
            down, up = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
            state[down] = torch.cat([state[down], layer.beginning_A], dim=0)
            state[up] = torch.cat([state[up], -layer.beginning_B], dim=1)
        # Scales are alpha / rank, or alpha / sqrt(rank), and must stay what they were.
        growth = math.sqrt(2) if config.use_rslora else 2
        config.r = 2 * config.r
        config.lora_alpha = growth * config.lora_alpha
        config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
        config.alpha_pattern = {name: growth * alpha for name, alpha in config.alpha_pattern.items()}
    save_adapter(state, config, folder, base_model)


def _layers(model: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _beginning(model: nn.Module) -> State:
    return {name: tensor for name, tensor in model.named_buffers() if name.rpartition(".")[2] in _BEGINNING}


def _product(layer: Any) -> torch.Tensor:
    return cast(torch.Tensor, layer.beginning_B @ layer.beginning_A)


def _longest_first(pattern: Mapping[str, Any]) -> dict[str, Any]:
    return {name: pattern[name] for name in sorted(pattern, key=len, reverse=True)}


def _require_room(model: nn.Module, layers: Sequence[str], settings: LowRank) -> None:
    """A beginning from a layer's own weights has as many directions as the layer, and no more."""
    problems = list(_too_small(model, layers, settings))
    if problems:
        raise ModelError(
            f"initialization {settings.initialization} takes the adapter out of the layer's own weights",
            code="model.initialization",
            place="technique.initialization",
            hint="lower the rank, or set technique.initialization=default",
            problems=problems,
        )


def _too_small(model: nn.Module, layers: Sequence[str], settings: LowRank) -> Iterator[Problem]:
    rank = max([settings.rank, *settings.rank_pattern.values()])
    for name in layers:
        layer = cast(Any, model.get_submodule(name))
        if min(layer.weight.shape) < rank:
            yield Problem(
                "model.initialization", "the layer is smaller than the rank", place=name, value=f"rank {rank}"
            )
        elif isinstance(layer, Conv1D) and settings.initialization == "olora":
            yield Problem("model.initialization", "OLoRA does not read layers stored the other way", place=name)
