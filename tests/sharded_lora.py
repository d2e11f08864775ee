"""One rank of a training whose weights are gathered layer by layer on use (FSDP2), for the test beside it.

    python sharded_lora.py RANK WORLD STORE MODEL OUT

Writes the loss of a pack and the gathered gradients of the adapters.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from safetensors.torch import save_file
from tiny_training import counting_rows
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tunesmith.data.packs import lay_out
from tunesmith.models.attention import ATTENTION
from tunesmith.models.forward import label_logits
from tunesmith.objectives.cross_entropy import token_losses
from tunesmith.techniques.lora import Lora
from tunesmith.techniques.low_rank_layer import LowRankLinear

ROWS = counting_rows(4)


def adapted(folder: str) -> Any:
    """The tiny model with LoRA whose matrices are all filled."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation=ATTENTION, dtype=torch.float64
    )
    wrapped = Lora(rank=4).prepare(model, 0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    assert any(isinstance(module, LowRankLinear) for module in wrapped.modules())
    return wrapped.train()


def loss_of(model: Any) -> torch.Tensor:
    """Summed loss of all rows in one pack."""
    [pack] = lay_out([(at, ROWS[at]) for at in range(4)], tokens_per_micro_batch=500)
    losses_L, _ = token_losses(label_logits(model, pack), torch.from_numpy(pack.labels_L))
    return losses_L.sum()


def main() -> None:
    """Shard, run, gather, write."""
    warnings.simplefilter("ignore")
    rank, world, store, folder, out = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    dist.init_process_group("gloo", rank=rank, world_size=world, store=dist.FileStore(store, world))
    mesh = init_device_mesh("cpu", (world,))
    model = adapted(folder)
    for layer in model.get_base_model().model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    loss = loss_of(model)
    loss.backward()
    gathered = {
        name: parameter.grad.full_tensor().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    if rank == 0:
        save_file({"loss": loss.detach(), **gathered}, Path(out))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
