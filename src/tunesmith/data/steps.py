"""Which rows each optimizer step learns from.

The answer depends on the seed, the rows' lengths, the tokens of a step and, where the recipe asks for it, on which rows
belong together; and on nothing else: not on packing, ranks or where a run was resumed. Shape suffixes: B rows of the
set, G groups of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tunesmith.errors import DataError, UsageError

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class StepPlan:
    """The steps of a run; any of them can be asked for in any order.

    Each epoch is its own shuffling of all rows, cut into ``steps_per_epoch`` parts of nearly equal tokens. With
    ``group_of_B``, rows of one group stay together: each group is shuffled and cut into the parts of ``parts_G``, and
    these are shuffled in place of rows.
    """

    lengths_B: Integers
    steps_per_epoch: int
    seed: int
    group_of_B: Integers | None = None
    parts_G: Integers | None = None
    # One epoch's parts, so that walking through it step by step does not shuffle all rows at each step.
    _last_epoch: dict[int, list[Integers]] = field(default_factory=dict, repr=False, compare=False)

    def rows_of(self, step: int) -> Integers:
        """Indices of the rows of a step; steps are counted from 0 and have no end."""
        if step < 0:
            raise UsageError("steps are counted from 0", code="usage.step", value=step)
        epoch, part = divmod(step, self.steps_per_epoch)
        if epoch not in self._last_epoch:
            self._last_epoch.clear()
            self._last_epoch[epoch] = self._parts_of(epoch)
        return self._last_epoch[epoch][part].copy()

    def steps_in(self, epochs: float) -> int:
        """Steps that so many epochs take, the nearest whole number and at least 1."""
        return max(1, round(epochs * self.steps_per_epoch))

    def epoch_of(self, step: int) -> float:
        """Epochs that lie behind a run before it takes this step."""
        return step / self.steps_per_epoch

    def _parts_of(self, epoch: int) -> list[Integers]:
        order = _shuffled(len(self.lengths_B), self.seed, epoch)
        if self.group_of_B is None or self.parts_G is None:
            return np.split(order, _cuts(self.lengths_B[order], self.steps_per_epoch))
        together = _divided(order, self.group_of_B, self.parts_G, self.lengths_B)
        lengths = np.array([self.lengths_B[rows].sum() for rows in together], dtype=np.int64)
        bounds = [0, *_cuts(lengths, self.steps_per_epoch).tolist(), len(together)]
        return [np.concatenate(together[start:end]) for start, end in pairwise(bounds)]


def plan_steps(
    lengths_B: ArrayLike, *, tokens_per_step: int, seed: int, group_of_B: Integers | None = None
) -> StepPlan:
    """Cut the epochs of a run into steps of about ``tokens_per_step`` tokens.

    An epoch has ``max(1, round(tokens / tokens_per_step))`` steps, but never more than there are rows: no step is
    empty, and a row is never divided.

    Args:
        lengths_B: Tokens of each row.
        tokens_per_step: Tokens of a step.
        seed: Of the shuffling.
        group_of_B: Number of each row's group, from 0; rows of a group then stay together, in parts of no more than
            about a step. None: rows are drawn one by one.

    Raises:
        DataError: There are no rows, or a row without tokens.
        UsageError: ``tokens_per_step`` is not positive.
    """
    lengths = np.array(lengths_B, dtype=np.int64)
    if tokens_per_step < 1:
        raise UsageError("a step needs at least 1 token", code="usage.tokens_per_step", value=tokens_per_step)
    if lengths.size == 0:
        raise DataError("there are no rows to learn from", code="data.empty")
    if lengths.min() < 1:
        raise DataError("a row has no tokens", code="data.empty_row", place=f"row {int(lengths.argmin())}")
    steps = max(1, round(int(lengths.sum()) / tokens_per_step))
    if group_of_B is None:
        return StepPlan(lengths, min(steps, lengths.size), seed)
    rows_G = np.bincount(group_of_B)
    tokens_G = np.bincount(group_of_B, weights=lengths).astype(np.int64)
    parts_G = np.minimum(-(-tokens_G // tokens_per_step), rows_G)
    return StepPlan(lengths, min(steps, int(parts_G.sum())), seed, group_of_B, parts_G)


def _divided(order: Integers, group_of_B: Integers, parts_G: Integers, lengths_B: Integers) -> list[Integers]:
    """Rows that stay together, in the order in which the first row of each such part was drawn."""
    by_group = order[np.argsort(group_of_B[order], kind="stable")]
    parts: list[Integers] = []
    for rows, count in zip(np.split(by_group, np.cumsum(np.bincount(group_of_B))[:-1]), parts_G, strict=True):
        parts += np.split(rows, _cuts(lengths_B[rows], int(count)))
    drawn = np.empty_like(order)
    drawn[order] = np.arange(len(order))
    return sorted(parts, key=lambda rows: int(drawn[rows[0]]))


def _shuffled(rows: int, seed: int, epoch: int) -> Integers:
    # numpy promises that raw draws of a bit generator never change between versions; it does not for permutation().
    draws = np.random.Philox(np.random.SeedSequence([seed % 2**64, epoch])).random_raw(rows)
    return np.argsort(draws, kind="stable")


def _cuts(lengths: Integers, parts: int) -> Integers:
    """Where to cut rows of these lengths: the row borders nearest to equal shares, no part empty."""
    ends = np.cumsum(lengths)
    share, rest = divmod(int(ends[-1]), parts)
    inner = np.arange(1, parts, dtype=np.int64)
    targets = share * inner + rest * inner // parts
    after = np.searchsorted(ends, targets)
    starts = ends - lengths
    cuts = after + (ends[after] - targets < targets - starts[after])
    # At least one row for each part before a cut, and for each part behind it.
    cuts = np.maximum.accumulate(np.maximum(cuts, inner) - inner) + inner
    return np.minimum(cuts, lengths.size - parts + inner)
