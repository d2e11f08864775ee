"""What a technique is: which weights train, and how they are kept. Shared helpers are plain functions here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from tunesmith.data.types import TokenRow
from tunesmith.errors import CheckpointError, Problem
from tunesmith.models.quantized import Quantization

State = dict[str, torch.Tensor]


class Technique(Protocol):
    """Which weights train."""

    @property
    def artifact(self) -> Literal["adapter", "model"]:
        """What :meth:`save` writes."""

    @property
    def quantization(self) -> Quantization | None:
        """In how few bits the frozen weights are to be loaded; None for whole ones."""

    def prepare(
        self, model: nn.Module, seed: int, sample: Sequence[TokenRow] = (), new_token_ids: Sequence[int] = ()
    ) -> nn.Module:
        """The model with exactly the weights to be trained set to require gradients; new weights depend on ``seed``.

        The given model is changed in place and belongs to the result. All dropout that the recipe did not ask for is
        off afterwards.

        Args:
            model: As loaded, with a row for each new token.
            seed: Of new weights.
            sample: Some training rows, for techniques that begin from the data.
            new_token_ids: Tokens that the model did not have; their rows of the embeddings train in any case.

        Raises:
            ModelError: The model has no such weights.
        """

    def parameter_groups(self, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """The trained weights as optimizer groups; matrices decay, vectors do not."""

    def regularize(self, model: nn.Module) -> None:
        """Add the gradient of the technique's own penalty, if it has one; called behind the last pack of a step."""

    def after_update(self, model: nn.Module, step: int, total_steps: int) -> None:
        """What the technique does behind the optimizer, while gradients are still there; mostly nothing.

        Args:
            model: The model.
            step: The step that was just taken, from 0.
            total_steps: Steps planned so far.
        """

    def trainable_state(self, model: nn.Module) -> State:
        """The trained weights by name, as they are (no copies), and what else the technique must remember."""

    def load_trainable_state(self, model: nn.Module, state: State) -> None:
        """Put back what :meth:`trainable_state` gave.

        Raises:
            CheckpointError: Names or shapes are not those of this model.
        """

    def save(self, model: nn.Module, folder: Path, base_model: str | None = None) -> None:
        """Write the result into ``folder`` in the format of its owner (PEFT or Transformers).

        ``base_model`` is the name that an adapter gives as its base. Callers that want the folder whole or not at
        all hand in the scratch folder of :func:`tunesmith.runs.atomic.new_folder`.

        Raises:
            OutputError: The disk is full or the folder cannot be written.
        """

    def merge(self, model: nn.Module) -> nn.Module:
        """A plain model with the trained weights worked in; the given model stays as it is."""


def without_dropout(model: nn.Module) -> None:
    """Turn off every dropout of the model, in modules and in attention functions, without touching its config.

    Model families differ in where they keep the rate: modules of their own, or a number such as
    ``attention_dropout`` that a layer hands to a function.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and "drop" in name:
                setattr(module, name, 0.0)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """See :meth:`Technique.parameter_groups`; empty groups are left out."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def trainable_state(model: nn.Module) -> State:
    """See :meth:`Technique.trainable_state`."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def load_trainable_state(model: nn.Module, state: State) -> None:
    """See :meth:`Technique.load_trainable_state`."""
    load_state(trainable_state(model), state)


@torch.no_grad()
def load_state(own: State, state: State) -> None:
    """Copy the tensors of ``state`` into those of a model.

    Raises:
        CheckpointError: Names or shapes differ; nothing was copied.
    """
    problems = [
        Problem(
            "checkpoint.weights",
            "the saved weight does not fit this model",
            place=name,
            value=f"saved {_shape(state, name)}, model {_shape(own, name)}",
        )
        for name in sorted(own.keys() | state.keys())
        if _shape(own, name) != _shape(state, name)
    ]
    if problems:
        raise CheckpointError("the saved weights are not those of this model", problems=problems)
    for name, tensor in own.items():
        tensor.copy_(state[name])


def _shape(state: State, name: str) -> str:
    return str(tuple(state[name].shape)) if name in state else "none"
