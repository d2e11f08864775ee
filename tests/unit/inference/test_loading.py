"""Models that are loaded while others are loaded, and while others write."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_encoder_folder, tiny_model_folder

from tunesmith.inference.embedder import load_embedder
from tunesmith.inference.loading import load_base


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("loading")
    return [tiny_model_folder("llama", root / "llama"), tiny_model_folder("gemma2", root / "gemma2")]


def test_models_loaded_at_the_same_time_are_whole(folders: list[Path], tmp_path: Path) -> None:
    encoder = tiny_encoder_folder(tmp_path / "encoder")
    tokens = torch.tensor([[5, 6, 7]])
    wanted = [load_base(folder, None, torch.float32, "cpu").model(tokens).logits for folder in folders]
    vector = load_embedder(encoder).embed(["parcel"])[0]
    start = threading.Barrier(3, timeout=30)

    def load(number: int) -> None:
        for _ in range(8):
            start.wait()
            if number == 2:
                assert (load_embedder(encoder).embed(["parcel"])[0] == vector).all()
            else:
                loaded = load_base(folders[number], None, torch.float32, "cpu")
                assert torch.equal(loaded.model(tokens).logits, wanted[number])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(load, range(3)))
