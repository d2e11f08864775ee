"""Numbers about the run itself: memory and speed."""

from __future__ import annotations

import sys
from collections import deque

import psutil
import torch


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory in use so far: of the accelerator where there is one, else resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Speed:
    """Tokens and steps a second over the last steps, the attempt's first one left out as soon as there are others."""

    def __init__(self, window: int = 20) -> None:
        self._recent: deque[tuple[int, float]] = deque(maxlen=window)
        self._steps = 0

    def add(self, tokens: int, seconds: float) -> None:
        """Note one step."""
        if self._steps == 1:
            self._recent.clear()
        self._recent.append((tokens, seconds))
        self._steps += 1

    @property
    def tokens_per_second(self) -> float:
        """Smoothed over the window; 0 before the first step."""
        return sum(tokens for tokens, _ in self._recent) / max(self._seconds, 1e-9)

    @property
    def seconds_per_step(self) -> float:
        """Smoothed over the window; 0 before the first step."""
        return self._seconds / max(len(self._recent), 1)

    @property
    def _seconds(self) -> float:
        return sum(seconds for _, seconds in self._recent)
