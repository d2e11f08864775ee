"""The engine without one of its levers, to measure what each is worth: the same result by other work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tunesmith.executors.environment import ALLOCATOR


@dataclass(frozen=True)
class Lever:
    """How to train without it (or with more): recipe keys, settings of the loop, a patch, and the environment.

    ``missing`` names what the machine lacks for it.
    """

    train: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    patch: Callable[[], None] | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: dict(ALLOCATOR))
    missing: str | None = None


def _library_layers() -> None:
    """Leave the PEFT library's own way of computing its layers."""
    from tunesmith.techniques import low_rank

    low_rank.join_siblings = lambda _model: None


def _layers_alone() -> None:
    """Every layer computes for itself: nothing is shared by siblings."""
    from tunesmith.techniques import low_rank_layer

    low_rank_layer.SIBLINGS = ()


def _logits_of_all_tokens() -> None:
    """Compute scores of every token and take those of the labels."""
    from tunesmith.models import forward

    _scores_as_a_whole()

    def logits(model: Any, pack: Any, **extra: Any) -> torch.Tensor:
        out = model(
            input_ids=torch.tensor(pack.token_ids_T)[None],
            position_ids=torch.tensor(pack.position_ids_T)[None],
            use_cache=False,
            **extra,
        )
        wanted: torch.Tensor = out.logits[0, torch.tensor(pack.label_positions_L)]
        return wanted

    forward._logits = logits


def _scores_as_a_whole() -> None:
    """Make the scores of all labels before their losses."""
    from tunesmith.objectives import label_loss

    label_loss.label_states = lambda _model, _pack: None


def _library_loss() -> None:
    """The cross entropy of torch, which keeps log probabilities as large as the scores."""
    from tunesmith.objectives import label_loss

    _scores_as_a_whole()

    def losses(logits_L_V: torch.Tensor, labels_L: torch.Tensor, _smoothing: float = 0.0) -> Any:
        found = torch.nn.functional.cross_entropy(logits_L_V.float(), labels_L, reduction="none")
        return found, logits_L_V.argmax(-1) == labels_L

    label_loss.token_losses = losses


def _fused_attention() -> None:
    """PyTorch's attention kernel in place of matrix products."""
    from tunesmith.models import attention

    attention.takes_products = lambda _query, _key: False


def _preloaded(library: str) -> Lever:
    """Another allocator, where it is installed."""
    found = sorted(Path("/usr/lib").glob(f"*/{library}"))
    return Lever(environment={"LD_PRELOAD": str(found[0])}) if found else Lever(missing=library)


LEVERS: Mapping[str, Lever] = {
    "all levers": Lever(),
    "rows one at a time": Lever(settings={"layout": "padded", "share_prefix": False}),
    "no shared prefix": Lever(settings={"share_prefix": False}),
    "logits of all tokens": Lever(patch=_logits_of_all_tokens),
    "scores of all labels at once": Lever(patch=_scores_as_a_whole),
    "the library's loss": Lever(patch=_library_loss),
    "the library's LoRA layers": Lever(patch=_library_layers),
    "each LoRA layer alone": Lever(patch=_layers_alone),
    "the library's attention kernel": Lever(patch=_fused_attention),
    "float32 products": Lever(train={"precision": "float32"}),
    "allocator as it comes": Lever(environment={}),
    "tcmalloc": _preloaded("libtcmalloc_minimal.so.4"),
    "jemalloc": _preloaded("libjemalloc.so.2"),
    "rows of one document together": Lever(train={"sampler": "grouped"}),
    "activation checkpointing": Lever(settings={"activation_checkpointing": True}),
    "packs of 512 tokens": Lever(settings={"tokens_per_micro_batch": 512}),
    "packs of 2048 tokens": Lever(settings={"tokens_per_micro_batch": 2048}),
}
