"""One rank of DeepSpeed's third stage over LoRA layers of our own, for a test: RANK WORLD PORT MODEL OUT as arguments.

Writes the loss of a pack and the gathered gradients of the adapters.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sharded_lora import adapted, loss_of


class Called:
    """A model that is called through the engine, with the config of the model."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.config = engine.module.config
        self.device = torch.device("cpu")

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """As the model."""
        return self.engine(*arguments, **named)


def main() -> None:
    """Shard, run, gather, write."""
    rank, world, port, folder, out = sys.argv[1:]
    os.environ |= {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "DS_ACCELERATOR": "cpu",
    }
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    deepspeed.init_distributed("gloo")
    model = adapted(folder).float()
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=[parameter for parameter in model.parameters() if parameter.requires_grad],
        config={
            "train_micro_batch_size_per_gpu": 1,
            "train_batch_size": int(world),
            "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
            "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
            "zero_force_ds_cpu_optimizer": False,
        },
    )
    assert {tuple(parameter.shape) for parameter in engine.module.parameters()} == {(0,)}
    loss = loss_of(Called(engine))
    engine.backward(loss)
    gradients = {
        name: safe_get_full_grad(parameter).contiguous()
        for name, parameter in engine.module.named_parameters()
        if parameter.requires_grad
    }
    if rank == "0":
        save_file({"loss": loss.detach(), **gradients}, Path(out))


if __name__ == "__main__":
    main()
