"""Virtual tokens before every text: packs and answers are those of the PEFT library, one text at a time."""

from __future__ import annotations

import peft
import pytest
import torch
import transformers
from tiny_models import tiny_causal_model, tiny_tokenizer
from tiny_training import counting_rows

from tunesmith.data.packs import lay_out
from tunesmith.errors import ModelError
from tunesmith.generation import Decoding, generate
from tunesmith.models.adapters import without_adapter
from tunesmith.models.attention import ATTENTION
from tunesmith.models.forward import label_logits
from tunesmith.techniques.peft_method import PeftMethod

METHODS = ("prompt_tuning", "p_tuning", "prefix_tuning")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
]


def learned(name: str, family: str, folder, attention: str):
    """A model whose virtual tokens have learned something, at random."""
    tiny_causal_model(family, folder)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention, dtype=torch.float64)
    model = PeftMethod(name, settings={"num_virtual_tokens": 5}).prepare(base, seed=0)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
@pytest.mark.parametrize("name", METHODS)
def test_packs_give_the_logits_of_the_library(tmp_path, name, family):
    rows = counting_rows(6, shared=30).rows
    packs = lay_out(list(enumerate(rows)), tokens_per_micro_batch=300, share_prefix=True)
    assert any(segment.parent is not None for pack in packs for segment in pack.segments)
    ours = learned(name, family, tmp_path / "a", ATTENTION)
    theirs = learned(name, family, tmp_path / "b", "eager")
    for pack in packs:
        found = label_logits(ours, pack)
        for at, row in enumerate(pack.rows):
            tokens = torch.tensor(rows[row].token_ids_T)[None]
            whole = theirs(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[0, -tokens.shape[1] :]
            wanted = whole[torch.tensor(rows[row].trained_T).nonzero()[:, 0] - 1]
            torch.testing.assert_close(found[torch.tensor(pack.label_rows_L == at)], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_the_virtual_tokens(tmp_path, name):
    model = learned(name, "llama", tmp_path, ATTENTION)
    pack = lay_out(list(enumerate(counting_rows(4).rows)), tokens_per_micro_batch=300)[0]
    label_logits(model, pack).logsumexp(-1).sum().backward()
    trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
    assert trained
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in trained.values())


@pytest.mark.parametrize("name", METHODS)
def test_answers_are_those_of_the_library(tmp_path, name):
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    ours = learned(name, "llama", tmp_path / "a", "sdpa")
    theirs = learned(name, "llama", tmp_path / "b", "eager")
    prompts = [[7, 8, 9, *range(20, 20 + length)] for length in (3, 9, 5)]
    found = generate(ours, tokenizer, prompts, Decoding(max_new_tokens=10), tokens_per_batch=500)
    for prompt, answer in zip(prompts, found, strict=True):
        tokens = torch.tensor([prompt])
        out = theirs.generate(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=10, do_sample=False
        )
        wanted = out[0, len(prompt) :].tolist()
        stop = tokenizer.eos_token_id
        assert list(answer.token_ids) == (wanted[: wanted.index(stop)] if stop in wanted else wanted)


def test_without_its_virtual_tokens_the_model_is_the_one_before_training(tmp_path):
    model = learned("prompt_tuning", "llama", tmp_path, ATTENTION)
    pack = lay_out(list(enumerate(counting_rows(4).rows)), tokens_per_micro_batch=300)[0]
    with torch.no_grad(), without_adapter(model):
        found = label_logits(model, pack)
    torch.testing.assert_close(found, label_logits(model.get_base_model(), pack))
    assert isinstance(model, peft.PeftModel)


def test_families_without_tested_packs_are_refused(tmp_path):
    model = learned("prompt_tuning", "llama", tmp_path, "eager")
    pack = lay_out(list(enumerate(counting_rows(2).rows)), tokens_per_micro_batch=300)[0]
    with pytest.raises(ModelError, match="virtual tokens"):
        label_logits(model, pack)
