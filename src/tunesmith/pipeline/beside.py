"""What the models of a run are measured on beside its held-out rows, as its recipe says."""

from __future__ import annotations

from collections.abc import Callable

from tunesmith.evaluation.beside import Beside, general_rows
from tunesmith.evaluation.held_out import Layout
from tunesmith.evaluation.multiple_choice import Scoring
from tunesmith.formats.choices import read_choices
from tunesmith.objectives.label_loss import next_token_losses
from tunesmith.pipeline.prepare import Prepared
from tunesmith.recipe.resolved import Resolved

NOTHING_BESIDE = Beside()
# Paragraphs are shorter; a model with a smaller context reads their beginnings.
_MOST_TOKENS = 512


def make_beside(
    prepared: Prepared, resolved: Resolved, layout: Layout, *, packed: bool, should_stop: Callable[[], bool]
) -> Beside:
    """General text and questions, as far as the run has them.

    Raises:
        DataError: The file of questions cannot be read.
    """
    if not resolved.probe and resolved.multiple_choice is None:
        return NOTHING_BESIDE
    context = prepared.model_facts.context_length
    return Beside(
        general=general_rows(prepared.tokenizer, min(_MOST_TOKENS, context or _MOST_TOKENS)) if resolved.probe else (),
        choices=None if resolved.multiple_choice is None else read_choices(resolved.multiple_choice),
        label_losses=next_token_losses,
        layout=layout,
        scoring=Scoring(prepared.tokenizer, context, packed=packed, precision=resolved.precision),
        seed=resolved.seed,
        should_stop=should_stop,
    )
