"""Small trainings for tests: rows that can be learned, a tiny model ready for packs, and one call that trains.

rows = counting_rows(24)
model = packed_model("llama", folder)
run = train_tiny(Lora(rank=4).prepare(model, 0), Lora(rank=4), folder / "run", rows=rows, total_steps=6)
run.losses, run.weights, run.events
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tiny_models import tiny_causal_model

from tunesmith.data.steps import plan_steps
from tunesmith.data.types import TokenRow
from tunesmith.engine.checkpoint import Checkpoints
from tunesmith.engine.settings import TrainResult, TrainSettings
from tunesmith.engine.train import train
from tunesmith.models.attention import ATTENTION
from tunesmith.objectives.table import make_objective
from tunesmith.recipe.objectives import Sft
from tunesmith.runs.events import Event, open_events, read_events
from tunesmith.strategies.table import make_strategy


class MemoryRows:
    """A token set in memory."""

    def __init__(self, rows: Iterable[TokenRow]) -> None:
        self.rows = list(rows)

    @property
    def lengths_B(self) -> Any:
        return np.array([len(row.token_ids_T) for row in self.rows], dtype=np.int64)

    @property
    def trained_counts_B(self) -> Any:
        return np.array([int(row.trained_T.sum()) for row in self.rows], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TokenRow:
        return self.rows[index]

    def item(self, index: int) -> tuple[TokenRow, ...]:
        return (self.rows[index],)


def counting_rows(count: int, *, seed: int = 0, shared: int = 4) -> MemoryRows:
    """Rows that begin with ``shared`` tokens in common, untrained, and then count upwards, which can be learned."""
    numbers = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        own = int(numbers.integers(6, 16))
        start = int(numbers.integers(20, 60))
        tokens = np.concatenate([np.arange(300, 300 + shared), np.arange(start, start + own)]).astype(np.int64)
        trained = np.zeros(len(tokens), dtype=np.bool_)
        trained[shared + 2 :] = True
        rows.append(TokenRow(tokens, trained, f"rows.jsonl:{index + 1}"))
    return MemoryRows(rows)


def packed_model(family: str, folder: Path, *, dtype: torch.dtype = torch.float32, **overrides: Any) -> Any:
    """The tiny model of a family, loaded with attention for packs."""
    tiny_causal_model(family, folder, **overrides)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation=ATTENTION, dtype=dtype)


@dataclass(frozen=True)
class TinyRun:
    """What a small training did. ``losses`` by step number, the last attempt's where a step was done twice."""

    result: TrainResult
    events: list[Event]
    weights: dict[str, torch.Tensor]

    @property
    def losses(self) -> dict[int, float]:
        return {event.step or 0: event.data["loss"] for event in self.events if event.type == "step"}

    def of_type(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.type == kind]


def train_tiny(
    model: Any,
    technique: Any,
    folder: Path,
    *,
    rows: Any,
    tokens_per_step: int = 80,
    read_wish: Callable[[], Any] = lambda: "continue",
    validate: Any = None,
    now: Any = None,
    objective: Any = Sft(),  # noqa: B008 - it is frozen
    strategy: Any = None,
    checkpoints_folder: Path | None = None,
    **settings: Any,
) -> TinyRun:
    """Train in ``folder``, going on where an earlier call stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    keep = settings.pop("keep_checkpoints", 2)
    values = {"total_steps": 6, "learning_rate": 1e-2, "tokens_per_micro_batch": 48, **settings}
    result = train(
        model,
        technique=technique,
        objective=make_objective(objective),
        strategy=strategy or make_strategy("single", "cpu"),
        rows=rows,
        steps=plan_steps(rows.lengths_B, tokens_per_step=tokens_per_step, seed=values.get("seed", 0)),
        settings=TrainSettings(**values),
        checkpoints=Checkpoints(checkpoints_folder or folder / "checkpoints", keep),
        events=open_events(folder / "events.jsonl"),
        read_wish=read_wish,
        validate=validate,
        **({} if now is None else {"now": now}),
    )
    weights = {name: tensor.clone() for name, tensor in technique.trainable_state(model).items()}
    return TinyRun(result, list(read_events(folder / "events.jsonl")), weights)
