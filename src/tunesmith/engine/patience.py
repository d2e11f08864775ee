"""Early stopping: a training whose held-out loss no longer falls ends, with the weights of its best validation."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Best:
    """The best validation so far: its loss and step, how many since then were no better, and the last one's step."""

    loss: float
    step: int
    waited: int = 0
    last_step: int | None = None

    def is_over(self, patience: int | None) -> bool:
        """Whether so many validations in a row were no better."""
        return patience is not None and self.waited >= patience


def judge(best: Best | None, loss: float, step: int) -> Best:
    """The best validation after one more; a loss that is not a number is no better than any."""
    if best is None or loss < best.loss or (math.isnan(best.loss) and not math.isnan(loss)):
        return Best(loss, step, 0, step)
    return Best(best.loss, best.step, best.waited + 1, step)
