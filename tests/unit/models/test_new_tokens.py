"""Tokens that a model did not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_causal_model, tiny_tokenizer

from tunesmith.errors import ModelError
from tunesmith.inference.loading import load
from tunesmith.models.adapters import with_adapter
from tunesmith.models.new_tokens import add_rows_up_to, add_token_rows, extend_tokenizer, token_ids_of_adapter
from tunesmith.techniques.lora import Lora

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def test_new_tokens_get_numbers_and_known_ones_are_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    size = len(tokenizer)
    assert extend_tokenizer(tokenizer, ["<sku>", "<price>"]) == (size, size + 1)
    ids = tokenizer("a<sku>b", add_special_tokens=False)["input_ids"]
    assert size in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<sku>b"
    with pytest.raises(ModelError, match="only where the tokenizer") as caught:
        extend_tokenizer(tokenizer, ["<new>", "<sku>"])
    assert [problem.value for problem in caught.value.problems] == ["<sku>"]
    assert "<new>" not in tokenizer.get_vocab()


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_rows_are_the_mean_of_those_that_were_there(tmp_path: Path, family: str) -> None:
    model = tiny_causal_model(family, tmp_path)
    head, embeddings = model.get_output_embeddings().weight.clone(), model.get_input_embeddings().weight.clone()
    add_token_rows(model, (399, 400, 401))
    after = model.get_input_embeddings().weight
    assert after.shape[0] == model.config.vocab_size == 402
    assert torch.equal(after[:399], embeddings[:399])
    torch.testing.assert_close(after[399:], embeddings[:399].mean(dim=0).expand(3, -1))
    torch.testing.assert_close(model.get_output_embeddings().weight[400], head[:399].mean(dim=0))
    assert (model.get_output_embeddings().weight is after) is (family == "llama")
    add_rows_up_to(model, 401)
    assert model.get_input_embeddings().weight is after


def test_all_that_loads_an_adapter_makes_room_first(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tokenizer = tiny_tokenizer(base)
    model: Any = tiny_causal_model("llama", base)
    ids = (*extend_tokenizer(tokenizer, ["<sku>"]), 405)
    add_token_rows(model, ids)
    model = Lora(rank=2).prepare(model, 0, (), ids)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    adapter.mkdir()
    Lora().save(model, adapter, str(base))
    tokenizer.save_pretrained(adapter)
    assert token_ids_of_adapter(adapter) == ids
    assert token_ids_of_adapter(base) == ()
    tokens = torch.tensor([[5, ids[0], 7]])
    expected = model.eval()(tokens).logits
    assert torch.equal(with_adapter(tiny_causal_model("llama", base), adapter)(tokens).logits, expected)
    loaded = load(base, adapter, torch.float32)
    assert torch.equal(loaded.model(tokens).logits, expected)
    assert loaded.tokenizer.convert_tokens_to_ids("<sku>") == ids[0]
