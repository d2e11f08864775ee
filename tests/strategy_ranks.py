"""One rank of several small trainings under a strategy, for the tests beside it.

    python strategy_ranks.py job.json RANK

The job names the strategy, how many ranks there are, a file where they meet, the model, and a folder for what was
found: `NAME.safetensors` with losses and whole weights of each training, `memory-RANK.json`, and checkpoints.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from safetensors.torch import save_file
from tiny_training import MemoryRows, counting_rows, train_tiny

from tunesmith.data.packs import lay_out
from tunesmith.data.types import TokenRow
from tunesmith.engine.settings import ValidationLoss
from tunesmith.models.attention import ATTENTION
from tunesmith.models.forward import label_logits
from tunesmith.objectives.label_loss import label_losses
from tunesmith.recipe.objectives import Kto
from tunesmith.strategies.base import Strategy
from tunesmith.strategies.held import Held
from tunesmith.strategies.table import make_strategy
from tunesmith.techniques.full import Full
from tunesmith.techniques.lora import Lora

STEPS = 5
PAUSE_AFTER = 3


def rows_of(name: str) -> MemoryRows:
    """Rows of one training; those of KTO are wanted and unwanted in turn."""
    rows = counting_rows(24)
    if name != "kto":
        return rows
    return MemoryRows(
        TokenRow(row.token_ids_T, row.trained_T, row.place, kind=at % 2) for at, row in enumerate(rows.rows)
    )


TRAININGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lora": (Lora(rank=4, alpha=8, learning_rate_ratio=16.0), {"learning_rate": 1e-3}),
    "full": (Full(), {"learning_rate": 1e-3, "clip": 0.1, "weight_decay": 0.1}),
    "dora": (Lora(rank=4, alpha=8, decomposed=True), {}),
    "checkpointed": (Lora(rank=4, alpha=8), {"activation_checkpointing": True}),
    "padded": (Lora(rank=4, alpha=8), {"layout": "padded", "share_prefix": False}),
    "one pack": (Lora(rank=4, alpha=8), {"tokens_per_micro_batch": 10_000}),
    "kto": (Lora(rank=4, alpha=8), {"objective": Kto()}),
    "watched": (Full(), {"learning_rate": 1e-3, "validate_every_steps": 2, "checkpoint_every_steps": 2}),
    "patient": (Full(), {"learning_rate": 1e-3, "validate_every_steps": 1, "patience": 2}),
    "paused": (Lora(rank=4, alpha=8), {}),
}
# Those that are paused after some steps; the last one is none of the list above, to keep the fast suite fast.
PAUSED: dict[str, tuple[Any, dict[str, Any]]] = {
    "paused": TRAININGS["paused"],
    "paused full": (Full(), {"learning_rate": 1e-3, "clip": 0.1, "activation_checkpointing": True}),
}


def train_one(
    name: str, strategy: Strategy, model_folder: Path, folder: Path, dtype: str = "float64", **more: Any
) -> dict[str, torch.Tensor]:
    """Losses by step and whole weights of one training."""
    technique, settings = {**TRAININGS, **PAUSED}[name]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_folder, attn_implementation=ATTENTION, dtype=getattr(torch, dtype)
    )
    model = technique.prepare(model, 0)
    own = folder if strategy.group.is_main else folder / f"rank-{strategy.group.rank}"
    (pack,) = lay_out([(0, rows_of(name)[0])], tokens_per_micro_batch=100)

    def validate() -> ValidationLoss:
        loss = float(label_losses(model, pack).mean())
        # For whom losses rise, so that the first step is the best one.
        return ValidationLoss(-loss if name == "patient" else loss, 1, len(pack.labels_L))

    done = train_tiny(
        model,
        technique,
        own,
        rows=rows_of(name),
        strategy=strategy,
        validate=validate,
        checkpoints_folder=folder / "checkpoints",
        **{"total_steps": STEPS, **settings, **more},
    )
    weights = dict(strategy.weights(technique, model).items())
    losses = torch.tensor([done.losses.get(step, 0.0) for step in range(1, STEPS + 1)], dtype=torch.float64)
    return {"losses": losses, **{name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}}


def pausing() -> Callable[[], str]:
    """A wish to pause behind some steps."""
    wishes = iter(["continue"] * PAUSE_AFTER + ["pause"])
    return wishes.__next__


def memory_of(strategy: Strategy, model_folder: Path) -> dict[str, int]:
    """What this rank holds of weights, gradients and moments, and the bytes of all weights.

    All weights train, and one step of two packs is taken.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder, attn_implementation=ATTENTION)
    technique = Full()
    whole = sum(parameter.nbytes for parameter in model.parameters())
    model = strategy.share_out(technique.prepare(model, 0))
    optimizer = strategy.join(model, torch.optim.AdamW(technique.parameter_groups(model, 0.0)))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    (pack,) = lay_out([(0, rows_of("lora")[0])], tokens_per_micro_batch=100)
    held = []
    for last in (False, True):
        strategy.backward(label_logits(model.train(), pack).square().mean(), last=last)
        held.append(strategy.held(model, optimizer))
    strategy.reduce_gradients(trained)
    strategy.clip(trained, None)
    optimizer.step()
    held.append(strategy.held(model, optimizer))
    return {"whole": whole, **asdict(reduce(Held.most, held))}


def main() -> None:
    """Train all, or die on the way where the job says so."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    job, rank = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2])
    world, out, model_folder = job["world"], Path(job["out"]), Path(job["model"])
    dist.init_process_group("gloo", rank=rank, world_size=world, store=dist.FileStore(job["store"], world))
    strategy = make_strategy(job["strategy"], "cpu", offload=job.get("offload", False))
    dtype = job["dtype"]
    if job.get("dies"):
        asked = iter(range(1000))

        def die() -> str:
            if next(asked) == 2 and rank == 1:
                os._exit(9)
            return "continue"

        train_one("lora", strategy, model_folder, out / "dies", dtype, read_wish=die)
        return
    (out / f"memory-{rank}.json").write_text(json.dumps(memory_of(strategy, model_folder)))
    for name in job["trainings"]:
        more = {"read_wish": pausing()} if name in PAUSED else {}
        found = train_one(name, strategy, model_folder, out / name, dtype, **more)
        if strategy.group.is_main:
            save_file(found, out / f"{name}.safetensors")
    # More steps than there is time for, and packs of which each rank's first is of another size.
    train_one("lora", strategy, model_folder, out / "hurried", dtype, total_steps=100_000, deadline_seconds=2.0)
    if job.get("resume"):
        found = train_one(job.get("resumed", "paused"), strategy, model_folder, Path(job["resume"]), dtype)
        if strategy.group.is_main:
            save_file(found, out / "resumed.safetensors")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
