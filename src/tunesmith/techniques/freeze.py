"""Training of the last layers alone: the rest of the model stays as it is."""

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
from tunesmith.errors import ModelError
from tunesmith.techniques.adapter import head_modules
from tunesmith.techniques.base import State, load_trainable_state, parameter_groups, trainable_state, without_dropout
from tunesmith.techniques.saving import save_model
from tunesmith.techniques.targets import outermost_stacks


@dataclass(frozen=True)
class Freeze:
    """The last ``layers`` of each stack, and with ``head`` what follows; methods are those of Technique.

    An output matrix that the embeddings share is theirs and stays; the fresh head of a classifier always trains.
    """

    layers: int = 2
    head: bool = True
    artifact: ClassVar[Literal["adapter", "model"]] = "model"
    quantization: ClassVar[None] = None

    def prepare(
        self,
        model: nn.Module,
        seed: int,  # noqa: ARG002 - nothing is drawn at random
        sample: Sequence[TokenRow] = (),  # noqa: ARG002
        new_token_ids: Sequence[int] = (),  # noqa: ARG002 - refused together with this technique
    ) -> nn.Module:
        """The last layers train, in fp32 at least: updates are smaller than the steps between two bf16 numbers.

        Raises:
            ModelError: The model has fewer layers, or none that can be told apart.
        """
        without_dropout(model)
        wanted = {id(parameter) for parameter in self._trained(model)}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in wanted)
            if id(parameter) in wanted:
                parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        return model

    def parameter_groups(self, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """Matrices, and vectors without decay."""
        return parameter_groups(model, weight_decay)

    def regularize(self, model: nn.Module) -> None:
        """No penalty."""

    def after_update(self, model: nn.Module, step: int, total_steps: int) -> None:
        """Nothing."""

    def trainable_state(self, model: nn.Module) -> State:
        """The weights that train."""
        return trainable_state(model)

    def load_trainable_state(self, model: nn.Module, state: State) -> None:
        """Put them back."""
        load_trainable_state(model, state)

    def save(self, model: nn.Module, folder: Path, base_model: str | None = None) -> None:  # noqa: ARG002
        """The whole model: config and safetensors, as Transformers writes them."""
        save_model(cast(PreTrainedModel, model), folder)

    def merge(self, model: nn.Module) -> nn.Module:
        """A copy: there is nothing to work in."""
        return copy.deepcopy(model)

    def _trained(self, model: nn.Module) -> list[nn.Parameter]:
        stacks = outermost_stacks(model)
        fewest = min((len(stack) for stack in stacks.values()), default=0)
        if self.layers > fewest:
            raise ModelError(
                "the model has fewer layers than should train" if fewest else "the model has no list of layers",
                code="model.layers",
                place="technique.layers",
                value=f"{self.layers} of {fewest}",
                hint="lower technique.layers, or train all weights with technique: full",
            )
        chosen = [parameter for stack in stacks.values() for parameter in stack[-self.layers :].parameters()]
        for name in head_modules(model):
            chosen += list(model.get_submodule(name).parameters())
        return chosen + (_behind(model, list(stacks)) if self.head else [])


def _behind(model: nn.Module, stacks: list[str]) -> list[nn.Parameter]:
    """What is defined behind the first stack and lies in none; tied weights count as embeddings, which come before."""
    embeddings = {id(one) for module in model.modules() if isinstance(module, nn.Embedding) for one in [module.weight]}
    found, passed = [], False
    for name, parameter in model.named_parameters():
        inside = any(name.startswith(stack + ".") for stack in stacks)
        passed = passed or inside
        if passed and not inside and id(parameter) not in embeddings:
            found.append(parameter)
    return found
