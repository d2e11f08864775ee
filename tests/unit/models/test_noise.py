"""Noise on embeddings: of the size that NEFTune says, for each row of a pack, while training and at no other time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import counting_rows, packed_model, train_tiny

from tunesmith.data.packs import lay_out
from tunesmith.models.forward import label_logits
from tunesmith.models.noise import noisy_embeddings
from tunesmith.models.running import running
from tunesmith.techniques.lora import Lora

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

(PACK,) = lay_out(list(enumerate(counting_rows(6).rows)), tokens_per_micro_batch=500, share_prefix=False)


@pytest.mark.parametrize("wrapped", [False, True])
def test_each_row_gets_noise_of_its_own_size(tmp_path: Path, wrapped: bool) -> None:
    model = packed_model("llama", tmp_path)
    model = Lora(rank=2).prepare(model, seed=0) if wrapped else model
    embedding = model.get_input_embeddings()
    tokens = torch.tensor(PACK.token_ids_T)[None]
    plain = embedding(tokens).detach()
    model.train()
    with torch.no_grad(), noisy_embeddings(model, 5.0), running(PACK):
        draws = torch.stack([embedding(tokens) - plain for _ in range(200)])[:, 0]
    for segment in PACK.segments:
        row = draws[:, segment.start : segment.end]
        most = 5.0 / ((segment.end - segment.start) * plain.shape[-1]) ** 0.5
        assert float(row.abs().max()) <= most * (1 + 1e-5)
        # Uniform numbers have a standard deviation of the bound divided by the root of three.
        assert float(row.std()) == pytest.approx(most / 3**0.5, rel=0.02)
    assert torch.equal(embedding(tokens), plain)


def test_there_is_none_in_evaluation_and_none_without_being_asked(tmp_path: Path) -> None:
    model = packed_model("llama", tmp_path).eval()
    plain = label_logits(model, PACK)
    with noisy_embeddings(model, 5.0):
        assert torch.equal(label_logits(model, PACK), plain)
        model.train()
        assert not torch.equal(label_logits(model, PACK), plain)
    with noisy_embeddings(model, None):
        assert torch.equal(label_logits(model, PACK), plain)


def test_a_resumed_training_draws_the_same_noise(tmp_path: Path) -> None:
    technique = Lora(rank=4)

    def attempt(part: str, wishes: object = None) -> object:
        model = technique.prepare(packed_model("llama", tmp_path / "base"), seed=0)
        return train_tiny(
            model,
            technique,
            tmp_path / part,
            rows=counting_rows(24),
            share_prefix=False,
            neftune_alpha=5.0,
            read_wish=wishes.__next__ if wishes else lambda: "continue",  # type: ignore[attr-defined]
        )

    whole = attempt("whole")
    attempt("parts", iter([*["continue"] * 3, "pause"]))
    parts = attempt("parts")
    assert parts.losses == whole.losses  # type: ignore[attr-defined]
