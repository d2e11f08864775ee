"""What the peers' sides share: when each step ended, how many real tokens it had, and the one line that tells it."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Sequence
from typing import Any

import transformers


class Watch(transformers.TrainerCallback):
    """Notes when each step ends, and stops the training when its time is up."""

    def __init__(self, seconds: float, least_steps: int) -> None:
        self.seconds, self.least_steps = seconds, least_steps
        self.started = self.last = 0.0
        self.times: list[float] = []
        self.losses: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.started = self.last = time.perf_counter()

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the step, and ask for the end when time is up."""
        now = time.perf_counter()
        self.times.append(now - self.last)
        self.last = now
        if now - self.started > self.seconds and state.global_step >= self.least_steps:
            control.should_training_stop = True

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Note the step's loss."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def tell(watch: Watch, rows: Sequence[int], tokens: Sequence[int], precision: str, batches_per_step: int) -> None:
    """Print the result; ``rows`` and ``tokens`` are those of each batch, of which the last may not have been used."""
    count = len(watch.times)
    rows, tokens = (
        [sum(counts[at : at + batches_per_step]) for at in range(0, len(counts), batches_per_step)]
        for counts in (rows, tokens)
    )
    steps = [
        {"seconds": seconds, "rows": own_rows, "tokens": own_tokens, "loss": loss}
        for seconds, own_rows, own_tokens, loss in zip(
            watch.times, rows[:count], tokens[:count], watch.losses[:count], strict=True
        )
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"steps": steps, "peak_memory_bytes": peak, "precision": precision}))
