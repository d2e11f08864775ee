"""The LoRA layers of our own where weights are sharded over processes and gathered when a layer is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sharded_lora
import torch
from safetensors.torch import load_file
from technique_cases import QUIET
from tiny_training import packed_model

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]


def test_weights_that_are_gathered_on_use_learn_the_same(tmp_path: Path) -> None:
    packed_model("llama", tmp_path / "base")
    command = [sys.executable, sharded_lora.__file__]
    rest = [str(tmp_path / "store"), str(tmp_path / "base"), str(tmp_path / "found.safetensors")]
    environment = {**os.environ, "PYTHONPATH": str(Path(sharded_lora.__file__).parent), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([*command, str(rank), "2", *rest], env=environment, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=120)[1].decode() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors[0][-2000:] + errors[1][-2000:]
    found = load_file(tmp_path / "found.safetensors")
    model = sharded_lora.adapted(str(tmp_path / "base"))
    loss = sharded_lora.loss_of(model)
    loss.backward()
    torch.testing.assert_close(found.pop("loss"), loss.detach())
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-9, msg=name)
