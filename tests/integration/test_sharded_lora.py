"""The LoRA layers of our own where weights are sharded over processes and gathered when a layer is used."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import sharded_lora
import torch
import zero3_lora
from safetensors.torch import load_file
from technique_cases import QUIET
from tiny_training import packed_model

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]


def test_weights_that_fsdp2_gathers_learn_the_same(tmp_path: Path) -> None:
    found = run_ranks(sharded_lora, tmp_path, str(tmp_path / "store"))
    require_equal(found, sharded_lora.adapted(str(tmp_path / "base")), 1e-9)


@pytest.mark.slow
def test_weights_that_zero3_gathers_learn_the_same(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = run_ranks(zero3_lora, tmp_path, str(port))
    require_equal(found, sharded_lora.adapted(str(tmp_path / "base")).float(), 1e-3)


def run_ranks(script: ModuleType, folder: Path, meeting_point: str) -> dict[str, torch.Tensor]:
    """What two ranks of a script found together."""
    packed_model("llama", folder / "base")
    environment = {**os.environ, "PYTHONPATH": str(Path(sharded_lora.__file__).parent), "OMP_NUM_THREADS": "1"}
    rest = [meeting_point, str(folder / "base"), str(folder / "found.safetensors")]
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script.__file__), str(rank), "2", *rest], env=environment, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=240)[1].decode() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors[0][-2000:] + errors[1][-2000:]
    return load_file(folder / "found.safetensors")


def require_equal(found: dict[str, torch.Tensor], model: torch.nn.Module, tolerance: float) -> None:
    loss = sharded_lora.loss_of(model)
    loss.backward()
    torch.testing.assert_close(found.pop("loss"), loss.detach())
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=tolerance, atol=tolerance * largest, msg=name)
