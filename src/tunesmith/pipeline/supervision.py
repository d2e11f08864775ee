"""What an objective means for the stages around training: how its rows become tokens, and how systems are measured.

One row of the table for each objective.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tunesmith.data.store import TokenStore
from tunesmith.data.tokenize import tokenize_examples, tokenize_whole
from tunesmith.evaluation.held_out import Layout
from tunesmith.evaluation.systems import OnProgress, Ruler, ShouldStop, causal_ruler
from tunesmith.objectives.sft import label_losses
from tunesmith.recipe.resolved import Resolved

if TYPE_CHECKING:
    from tunesmith.pipeline.prepare import Prepared

Tokenize = Callable[..., TokenStore]


class MakeRuler(Protocol):
    """Makes the ruler of a run."""

    def __call__(
        self, prepared: Prepared, resolved: Resolved, layout: Layout, on_progress: OnProgress, should_stop: ShouldStop
    ) -> Ruler:
        """The arguments of :func:`make_ruler`."""


@dataclass(frozen=True)
class Supervision:
    """One objective outside of the loop.

    ``tokenize`` has the arguments of :func:`tunesmith.data.tokenize.tokenize_examples`.
    """

    tokenize: Tokenize
    ruler: MakeRuler


def make_ruler(
    prepared: Prepared, resolved: Resolved, layout: Layout, *, on_progress: OnProgress, should_stop: ShouldStop
) -> Ruler:
    """How the systems of a run are measured."""
    return SUPERVISION[resolved.objective.name].ruler(prepared, resolved, layout, on_progress, should_stop)


def _causal(
    prepared: Prepared, resolved: Resolved, layout: Layout, on_progress: OnProgress, should_stop: ShouldStop
) -> Ruler:
    return causal_ruler(
        prepared.tokenizer,
        layout,
        label_losses,
        max_new_tokens=resolved.max_new_tokens,
        stop_token_ids=prepared.stop_token_ids,
        on_progress=on_progress,
        should_stop=should_stop,
    )


SUPERVISION: Mapping[str, Supervision] = {
    "sft": Supervision(tokenize_examples, _causal),
    "text": Supervision(tokenize_whole, _causal),
}
