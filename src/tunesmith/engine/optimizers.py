"""The optimizers by name: one row each. All but AdamW trade memory or tuning for something; see each row.

Not offered: GaLore and APOLLO. Their packages keep projections as objects inside the optimizer's state, so that a
training could not be resumed exactly without pickles (docs/decisions/0007-optimizers.md).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tunesmith.errors import RecipeError, missing_extra

Groups = list[dict[str, Any]]
BETAS = (0.9, 0.999)


def _adamw(groups: Groups, learning_rate: float) -> torch.optim.Optimizer:
    """Loshchilov and Hutter 2019. The fused form does all weights in one call, in a fraction of the time."""
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, eps=1e-8, fused=True)


def _adamw_8bit(groups: Groups, learning_rate: float) -> torch.optim.Optimizer:
    """Moments in eight bits (Dettmers et al. 2022); those of weights with less than 4,096 numbers stay whole."""
    return _bitsandbytes("AdamW8bit", groups, learning_rate, betas=BETAS)


def _paged_adamw_8bit(groups: Groups, learning_rate: float) -> torch.optim.Optimizer:
    """The same, with moments that a GPU may move to the host's memory."""
    return _bitsandbytes("PagedAdamW8bit", groups, learning_rate, betas=BETAS)


def _lion_8bit(groups: Groups, learning_rate: float) -> torch.optim.Optimizer:
    """One moment in eight bits, and steps of equal size (Chen et al. 2023); wants about a third of AdamW's rate."""
    return _bitsandbytes("Lion8bit", groups, learning_rate, betas=(0.9, 0.99))


def _adafactor(groups: Groups, learning_rate: float) -> torch.optim.Optimizer:
    """Second moments of matrices as a row and a column (Shazeer and Stern 2018): no first moment.

    Transformers' form, since torch's takes steps in proportion to the weights, and adapters begin at zero.
    """
    from transformers.optimization import Adafactor

    untyped: Any = Adafactor
    optimizer: torch.optim.Optimizer = untyped(
        groups, lr=learning_rate, scale_parameter=False, relative_step=False, warmup_init=False
    )
    return optimizer


def _schedule_free_adamw(groups: Groups, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW whose weights are averaged over the run, in place of a falling rate (Defazio et al. 2024)."""
    package = _package("schedulefree", "optimizers")
    optimizer: torch.optim.Optimizer = package.AdamWScheduleFree(groups, lr=learning_rate, betas=BETAS)
    return optimizer


OPTIMIZERS: dict[str, Callable[[Groups, float], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adamw_8bit": _adamw_8bit,
    "paged_adamw_8bit": _paged_adamw_8bit,
    "lion_8bit": _lion_8bit,
    "adafactor": _adafactor,
    "schedule_free_adamw": _schedule_free_adamw,
}


def make_optimizer(name: str, groups: Groups, learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer of that name; each group brings its own weight decay.

    Raises:
        RecipeError: There is none of that name.
        UsageError: ``usage.missing_extra``: its package is not installed.
    """
    if name not in OPTIMIZERS:
        raise RecipeError(
            "no such optimizer",
            code="recipe.optimizer",
            place="train.optimizer",
            value=name,
            hint=f"optimizers of this version: {', '.join(OPTIMIZERS)}",
        )
    return OPTIMIZERS[name](groups, learning_rate)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Use this rate from the next step on; a group with a ``rate_scale`` takes so many times the rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("rate_scale", 1.0)


def start_training(optimizer: torch.optim.Optimizer) -> None:
    """Put the weights that train in place; most optimizers have no others."""
    switch: Any = getattr(optimizer, "train", None)
    if switch is not None:
        switch()


def use_result(optimizer: torch.optim.Optimizer) -> None:
    """Put the weights in place that are the result of training so far; most optimizers have no others."""
    switch: Any = getattr(optimizer, "eval", None)
    if switch is not None:
        switch()


@contextmanager
def result_in_place(optimizer: torch.optim.Optimizer, trained: Iterable[nn.Parameter]) -> Iterator[None]:
    """The result of training so far for the time of the block, then the weights that train again, bit for bit.

    The optimizer would compute those back with rounding, so that looking at the result would change training.
    """
    if getattr(optimizer, "eval", None) is None:
        yield
        return
    kept = [(parameter, parameter.detach().clone()) for parameter in trained]
    use_result(optimizer)
    try:
        yield
    finally:
        start_training(optimizer)
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)


def _bitsandbytes(kind: str, groups: Groups, learning_rate: float, **options: Any) -> torch.optim.Optimizer:
    optim: Any = _package("bitsandbytes", "quantization").optim
    optimizer: torch.optim.Optimizer = getattr(optim, kind)(groups, lr=learning_rate, **options)
    return optimizer


def _package(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise missing_extra(f"this optimizer needs the package {name}", extra, place="train.optimizer") from error
