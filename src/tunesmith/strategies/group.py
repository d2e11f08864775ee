"""What all strategies of several processes share: talking to the other ranks through torch's process group."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from tunesmith.errors import UsageError


@dataclass(frozen=True)
class Group:
    """The processes that train together, as torch knows them; one alone talks to nobody.

    ``rank`` is this process among all, from 0, and ``device`` is where it computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True for the one rank that writes events and checkpoints."""
        return self.rank == 0

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all ranks. Together."""
        if self.world_size == 1:
            return list(values)
        sums = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return [float(value) for value in sums.tolist()]

    def agree(self, value: Any) -> Any:
        """What the main rank has in mind: a number, a text, or a list of them. Together."""
        if self.world_size == 1:
            return value
        # As JSON: torch would send a pickle, which runs what whoever sends it wants.
        said = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self.device)
        size = torch.tensor([len(said)], device=self.device)
        dist.broadcast(size, src=0)
        if not self.is_main:
            said = torch.empty(int(size), dtype=torch.uint8, device=self.device)
        dist.broadcast(said, src=0)
        return json.loads(bytes(said.cpu().tolist()))

    def sum_tensors(self, tensors: Sequence[torch.Tensor], bucket_bytes: int = 2**25) -> None:
        """Sum each tensor over all ranks, in place; small ones travel in one. Together."""
        if self.world_size == 1:
            return
        for bucket in _buckets(tensors, bucket_bytes):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            for tensor, piece in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(piece.view_as(tensor))

    def copy_from_main(self, tensors: Sequence[torch.Tensor], bucket_bytes: int = 2**25) -> None:
        """Take the main rank's values of each tensor. Together."""
        if self.world_size == 1:
            return
        for bucket in _buckets(tensors, bucket_bytes):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.broadcast(flat, src=0)
            for tensor, piece in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(piece.view_as(tensor))


def current_group(device: torch.device) -> Group:
    """The process group that this process has joined.

    Raises:
        UsageError: It has joined none.
    """
    if not dist.is_initialized():
        raise UsageError(
            "this strategy shares work between processes, and this process was started alone",
            code="strategy.alone",
            hint="start it with tunesmith train, which starts all of them",
        )
    return Group(dist.get_rank(), dist.get_world_size(), device)


def _buckets(tensors: Sequence[torch.Tensor], most_bytes: int) -> list[list[torch.Tensor]]:
    """Neighbours of one type, up to so many bytes together."""
    found: list[list[torch.Tensor]] = []
    filled = 0
    for tensor in tensors:
        if found and found[-1][0].dtype == tensor.dtype and filled + tensor.nbytes <= most_bytes:
            found[-1].append(tensor)
        else:
            found.append([tensor])
            filled = 0
        filled += tensor.nbytes
    return found
