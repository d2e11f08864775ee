"""How the rows of a step are laid out: how large the largest pack is, and how many tokens are computed.

An estimate from the mean and the longest row, of what :func:`tunesmith.data.packs.lay_out` does with every row. What
rows begin with in common is computed once a pack, where that saves a twentieth of a step's tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tunesmith.planner.shape import ModelShape
from tunesmith.recipe.facts import DataFacts
from tunesmith.recipe.packing import own_room
from tunesmith.recipe.resolved import Resolved

SMALLEST_SAVING = 0.05
# Families whose rows may stand behind one another; rows of others go through one at a time.
ONE_AT_A_TIME = ("roberta", "xlm-roberta")


@dataclass(frozen=True)
class Packs:
    """The packs of a step.

    ``largest`` are the tokens of the largest pack of all steps, ``labels`` its trained ones, ``row_tokens`` the length
    of the rows in it. ``prefix`` tokens are shared by the ``rows`` of a pack. ``count`` is the packs of a step over all
    ranks, ``row_count`` its rows, ``step_tokens`` the tokens that they compute; these are means.
    """

    largest: int
    labels: int
    row_tokens: float
    prefix: int
    rows: float
    count: int
    step_tokens: float
    row_count: float

    @property
    def mean(self) -> float:
        """Tokens of a pack on average."""
        return self.step_tokens / self.count

    @property
    def seen_keys(self) -> float:
        """Keys that a token's query meets on average: what precedes it in its row."""
        own = (self.step_tokens - self.count * self.prefix) / self.row_count
        return self.prefix + own / 2


def plan_packs(shape: ModelShape, resolved: Resolved, data: DataFacts) -> Packs:
    """Lay out a step of mean rows, with one of the longest among them."""
    row = max(1.0, data.mean_row_tokens)
    longest = max(1, data.longest_row, math.ceil(row))
    rows_a_step = max(1.0, resolved.tokens_per_step / row)
    trained = data.trained_tokens / max(1, data.rows)
    # A large pack has some of the longer rows.
    row_tokens = (row + longest) / 2
    if resolved.layout == "padded" or shape.architecture in ONE_AT_A_TIME:
        labels = math.ceil(longest * min(1.0, trained / row))
        return Packs(longest, labels, row_tokens, 0, 1.0, math.ceil(rows_a_step), rows_a_step * row, rows_a_step)
    prefix = data.shared_prefix_tokens if resolved.share_prefix else 0
    if (rows_a_step - 1) * prefix < SMALLEST_SAVING * rows_a_step * row:
        prefix = 0
    own = max(1.0, row - prefix)
    fitting = max(1.0, own_room(resolved.tokens_per_micro_batch, prefix, round(row)) / own)
    count = math.ceil(rows_a_step / fitting - 1e-9)
    ranks = resolved.devices * resolved.nodes
    if ranks > 1:
        # Each rank gets about as many tokens, where there are rows enough.
        count = max(1, min(int(rows_a_step), math.ceil(count / ranks) * ranks))
    step_tokens = rows_a_step * own + count * prefix
    full = math.ceil(step_tokens if count == 1 else step_tokens / count + own)
    most = prefix + own_room(resolved.tokens_per_micro_batch, prefix, longest)
    largest = max(min(most, full), longest)
    in_largest = max(1.0, (largest - prefix) / own)
    return Packs(
        largest=largest,
        labels=max(1, min(largest - prefix, math.ceil(in_largest * trained))),
        row_tokens=row_tokens,
        prefix=prefix,
        rows=rows_a_step / count,
        count=count,
        step_tokens=step_tokens,
        row_count=rows_a_step,
    )
