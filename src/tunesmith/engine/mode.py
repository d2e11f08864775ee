"""A model made ready to train for a while, and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from tunesmith.errors import ModelError


@contextmanager
def training_mode(model: nn.Module, activation_checkpointing: bool | int) -> Iterator[None]:
    """Training mode for the block; eval mode, no gradients and no activation checkpointing behind it.

    Args:
        model: A model of Transformers, plain or wrapped by PEFT.
        activation_checkpointing: Whether layers compute their activations again in the backward pass; a number says
            how many of them do, the first ones.

    Raises:
        ModelError: The model cannot do activation checkpointing.
    """
    if activation_checkpointing:
        # Reentrant checkpointing would need inputs with gradients, which a frozen embedding does not give.
        _switch(model, "enable")({"use_reentrant": False})
        if activation_checkpointing is not True:
            _only_first_layers(model, activation_checkpointing)
    model.train()
    try:
        yield
    finally:
        model.eval()
        for parameter in model.parameters():
            parameter.grad = None
        if activation_checkpointing:
            _switch(model, "disable")()
            # Transformers sets this hook on the way in and leaves it behind.
            untyped: Any = model
            untyped.disable_input_require_grads()


def _only_first_layers(model: nn.Module, count: int) -> None:
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers[count:]:
        layer.gradient_checkpointing = False


def _switch(model: Any, what: str) -> Callable[..., None]:
    """The model's own switch; Transformers renamed it in 5.x and warns about the old name."""
    if getattr(model, "supports_gradient_checkpointing", False):
        for name in (f"activation_checkpointing_{what}", f"gradient_checkpointing_{what}"):
            if hasattr(model, name):
                switch: Callable[..., None] = getattr(model, name)
                return switch
    raise ModelError(
        "the model cannot do activation checkpointing",
        code="model.activation_checkpointing",
        place="train.activation_checkpointing",
        value=type(model).__name__,
        hint="set it to false",
    )
