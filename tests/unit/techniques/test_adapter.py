"""Adapters beside heads and new tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from tiny_models import tiny_causal_model

from tunesmith.errors import ModelError
from tunesmith.techniques.adapter import task_type
from tunesmith.techniques.freeze import Freeze
from tunesmith.techniques.lora import Lora

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
BERT = transformers.BertConfig(
    vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=3
)
TOKENS = torch.arange(8)[None]


def bert(kind: str) -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(**{**BERT.to_dict(), "num_labels": 2 if kind == "QuestionAnswering" else 3})
    return getattr(transformers, f"BertFor{kind}")(config)


def step(technique: Any, model: Any, loss: Any) -> None:
    optimizer = torch.optim.SGD(technique.parameter_groups(model, 0.0), lr=0.5)
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize(
    ("kind", "expected", "head"),
    [
        ("SequenceClassification", "SEQ_CLS", "classifier"),
        ("TokenClassification", "TOKEN_CLS", "classifier"),
        ("QuestionAnswering", "QUESTION_ANS", "qa_outputs"),
    ],
)
def test_a_fresh_head_trains_and_is_saved_with_the_adapter(
    tmp_path: Path, kind: str, expected: str, head: str, decomposed: bool
) -> None:
    technique = Lora(rank=2, decomposed=decomposed)
    base = bert(kind)
    assert task_type(base) == expected
    model = technique.prepare(base, 0)
    out = model(TOKENS)
    step(technique, model, (out.start_logits if kind == "QuestionAnswering" else out.logits).square().sum())
    technique.save(model, tmp_path)
    again = bert(kind)
    torch.nn.init.zeros_(getattr(again, head).weight)
    loaded = peft.PeftModel.from_pretrained(again, tmp_path).eval()
    for name, value in model.eval()(TOKENS).items():
        assert torch.equal(loaded(TOKENS)[name], value)
    merged = technique.merge(model)
    assert type(merged) is type(base)
    for name, value in model(TOKENS).items():
        torch.testing.assert_close(merged(TOKENS)[name], value, rtol=1e-4, atol=1e-4)
    assert not torch.equal(getattr(merged, head).weight, getattr(bert(kind), head).weight)


def test_models_with_encoder_and_decoder(tmp_path: Path) -> None:
    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration(config)
    assert task_type(model) == "SEQ_2_SEQ_LM"
    prepared = Lora(rank=2, targets=["EncDecAttention.q", "wi"]).prepare(model, 0)
    assert sum("lora_A.default" in name for name, _ in prepared.named_parameters()) == 2 + 4
    frozen = Freeze(layers=1).prepare(transformers.T5ForConditionalGeneration(config), 0)
    trains = {name.split(".")[0] for name in Freeze().trainable_state(frozen)}
    assert trains >= {"encoder", "decoder"}
    assert "shared" not in trains


@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize("decomposed", [False, True])
def test_rows_of_new_tokens_train_alone_and_load_on_a_resized_model(
    tmp_path: Path, family: str, decomposed: bool
) -> None:
    technique = Lora(rank=2, decomposed=decomposed)
    base = tiny_causal_model(family, tmp_path / "base")
    base.resize_token_embeddings(402, mean_resizing=False)
    before = base.get_input_embeddings().weight.detach().clone()
    model = technique.prepare(base, 0, (), (400, 401))
    tokens = torch.tensor([[5, 400, 7, 401]])
    step(technique, model, model(tokens, labels=tokens).loss)
    technique.save(model, tmp_path)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    plain.resize_token_embeddings(402, mean_resizing=False)
    loaded = peft.PeftModel.from_pretrained(plain, tmp_path).eval()
    assert torch.equal(loaded(tokens).logits, model.eval()(tokens).logits)
    merged: Any = technique.merge(model)
    torch.testing.assert_close(merged(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-4)
    after = merged.get_input_embeddings().weight
    assert torch.equal(after[:400], before[:400])
    assert not torch.equal(after[400:], before[400:])
    head = merged.get_output_embeddings().weight
    assert (head is after) is (family == "llama")
    assert sum(path.stat().st_size for path in tmp_path.glob("*.safetensors")) < 60_000


def test_more_layers_than_there_are_cannot_train(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="fewer layers") as caught:
        Freeze(layers=3).prepare(tiny_causal_model("llama", tmp_path), 0)
    assert caught.value.value == "3 of 2"


@pytest.mark.parametrize(("family", "head"), [("llama", set()), ("phi3", {"lm_head.weight"})])
def test_the_last_layers_train(tmp_path: Path, family: str, head: set[str]) -> None:
    model = tiny_causal_model(family, tmp_path)
    trains = set(Freeze().trainable_state(Freeze(layers=1).prepare(model, 0)))
    inside = {name for name in trains if name.startswith("model.layers.1.")}
    assert trains - inside == {"model.norm.weight", *head}
    assert len(inside) == sum(1 for _ in model.model.layers[1].parameters())
    alone = set(Freeze().trainable_state(Freeze(layers=1, head=False).prepare(model, 0)))
    assert alone == inside


def test_a_name_that_only_some_layers_have_is_refused(tmp_path: Path) -> None:
    model = tiny_causal_model("llama", tmp_path)
    model.model.layers[1].mlp.other_proj = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match="only 1 of the model's 2 layers"):
        Lora(targets=["q_proj", "other_proj"]).prepare(model, 0)
    Lora(targets=["q_proj", "layers.1.mlp.other_proj"]).prepare(model, 0)
