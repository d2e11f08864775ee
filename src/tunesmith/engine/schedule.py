"""The learning rate of each step.

The schedule runs on a clock from 0 (start) to 1 (end), not on step numbers: each step moves the clock by an equal
part of what is left. When the number of steps changes on the way (a deadline), the rest of the schedule is
stretched or compressed from where the clock stands, so the rate never jumps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

Shape = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class Clock:
    """The clock stood at ``progress`` before step ``since_step`` and reaches 1 after ``total_steps``."""

    total_steps: int
    since_step: int = 0
    progress: float = 0.0

    def at(self, step: int) -> float:
        """Where the clock stands before ``step`` (from 0), at most 1."""
        left = self.total_steps - self.since_step
        done = min(1.0, (step - self.since_step) / left) if left > 0 else 1.0
        return self.progress + (1.0 - self.progress) * done

    def change_total(self, step: int, total_steps: int) -> Clock:
        """The same clock before ``step``, going to another end."""
        if total_steps == self.total_steps:
            return self
        return replace(self, total_steps=total_steps, since_step=step, progress=self.at(step))


def rate_share(clock: Clock, step: int, shape: Shape, warmup: float) -> float:
    """Share of the full learning rate for ``step`` (from 0), between 0 and 1.

    Rises in a straight line over the ``warmup`` share of the clock, then falls to 0 behind the last step (or stays).
    No step of a rising or falling schedule gets a rate of 0: a step takes the rate in the middle of its stretch.
    """
    progress = (clock.at(step) + clock.at(step + 1)) / 2
    if progress < warmup:
        return progress / warmup
    rest = (progress - warmup) / (1.0 - warmup) if warmup < 1.0 else 0.0
    if shape == "constant":
        return 1.0
    if shape == "linear":
        return 1.0 - rest
    return 0.5 * (1.0 + math.cos(math.pi * rest))
