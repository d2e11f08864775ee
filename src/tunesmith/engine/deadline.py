"""How many steps fit into the time that a training may take."""

from __future__ import annotations

from collections import deque
from statistics import fmean, median

SPARE_SHARE = 0.03
_GROW_SHARE = 0.1


class Deadline:
    """Estimates seconds per step, and from that the step at which training should end.

    Estimates come from a probe at first, then from the last steps, the first one left out (caches are cold) and
    outliers cut to three times the median. What happens between steps (validation, checkpoints) is spread over the
    steps; the checkpoint at the end has its time set aside.

    Args:
        seconds: Time for the whole training; a small share of it stays spare.
        checkpoint_seconds: A first guess of how long saving takes.
    """

    def __init__(self, seconds: float, checkpoint_seconds: float, window: int = 30) -> None:
        self._limit = seconds * (1.0 - SPARE_SHARE)
        self._checkpoint_guess = checkpoint_seconds
        self._saved: list[float] = []
        self._first: float | None = None
        self._steps: deque[float] = deque(maxlen=window)
        self._step_count = 0
        self._between_seconds = 0.0

    def note_probe(self, seconds: float) -> None:
        """A guess of one step's time before there was any."""
        self._first = seconds

    def note_step(self, seconds: float) -> None:
        """One step took this long."""
        self._step_count += 1
        if self._step_count > 1:
            self._steps.append(seconds)
        elif self._first is None:
            self._first = seconds

    def note_validation(self, seconds: float) -> None:
        """A validation took this long."""
        self._between_seconds += seconds

    def note_checkpoint(self, seconds: float) -> None:
        """Saving took this long."""
        self._between_seconds += seconds
        self._saved.append(seconds)

    @property
    def seconds_per_step(self) -> float | None:
        """What one more step will take, with its part of what happens between steps; None before any measurement."""
        if not self._steps and self._first is None:
            return None
        if self._steps:
            bound = 3.0 * median(self._steps)
            alone = fmean(min(seconds, bound) for seconds in self._steps)
        else:
            alone = self._first or 0.0
        return alone + self._between_seconds / max(self._step_count, 1)

    def total_steps(self, step: int, elapsed_seconds: float, current: int, most: int) -> int:
        """Where to end: ``current``, sooner where time would run out, later (up to ``most``) where much is left.

        Args:
            step: Steps done.
            elapsed_seconds: Time spent since the start of training.
            current: Steps planned so far.
            most: Steps asked for.

        Returns:
            A total of at least ``step``, and at least 1.
        """
        per_step = self.seconds_per_step
        if per_step is None:
            return current
        left = self._limit - elapsed_seconds - max(self._saved, default=self._checkpoint_guess)
        affordable = max(0, int(left / max(per_step, 1e-9)))
        if step + affordable < current:
            return max(1, step + affordable)
        if affordable > (1.0 + _GROW_SHARE) * (current - step) + 1:
            return min(most, step + affordable)
        return current
