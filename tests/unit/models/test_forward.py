from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from tiny_models import VOCABULARY_SIZE, tiny_config
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from tunesmith.data.packs import lay_out
from tunesmith.data.types import TokenRow
from tunesmith.errors import ModelError
from tunesmith.models.attention import ATTENTION, BIDIRECTIONAL_FAMILIES, PACKED_FAMILIES, supports_packing
from tunesmith.models.forward import label_logits


def tiny_model(family="llama", **overrides):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(tiny_config(family, **overrides), attn_implementation=ATTENTION).eval()


def make_rows(lengths, prefix=(), trained=2):
    rng = np.random.default_rng(0)
    rows = []
    for at, length in enumerate(lengths):
        tokens = np.concatenate([np.array(prefix, dtype=np.int64), rng.integers(3, VOCABULARY_SIZE, length)])
        rows.append((at, TokenRow(tokens, np.arange(len(tokens)) >= len(tokens) - trained, f"row {at}")))
    return rows


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any result has."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("prefix", [(), range(3, 103)], ids=["plain", "shared prefix"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "mistral", "smollm3"])
def test_nothing_as_large_as_the_pack_squared_is_made(family, prefix):
    model = tiny_model(family)
    [pack] = lay_out(make_rows([16] * 128, prefix), tokens_per_micro_batch=4096, share_prefix=True)
    with LargestTensor() as seen:
        label_logits(model, pack).sum().backward()
    assert pack.tokens >= 2048
    assert seen.elements < pack.tokens**2 / 10


def test_logits_are_made_at_labels_alone():
    model = tiny_model()
    [pack] = lay_out(make_rows([20, 30, 40]), tokens_per_micro_batch=100)
    assert label_logits(model, pack).shape == (6, VOCABULARY_SIZE)
    sizes = []
    model.lm_head.register_forward_hook(lambda module, inputs, out: sizes.append(tuple(out.shape)))
    label_logits(model, pack)
    assert sizes == [(1, 6, VOCABULARY_SIZE)]


def test_a_pack_without_labels_has_no_logits():
    [pack] = lay_out(make_rows([20, 30], trained=0), tokens_per_micro_batch=100)
    assert label_logits(tiny_model(), pack).shape == (0, VOCABULARY_SIZE)


def test_tokens_from_a_file_that_is_only_read_are_taken_as_they_are(tmp_path):
    rows = make_rows([20, 30])
    tokens = np.concatenate([row.token_ids_T for _, row in rows])
    tokens.tofile(tmp_path / "tokens")
    held = np.memmap(tmp_path / "tokens", dtype=np.int64, mode="r")
    mapped = [
        (0, TokenRow(held[:20], rows[0][1].trained_T, "row 0")),
        (1, TokenRow(held[20:], rows[1][1].trained_T, "row 1")),
    ]
    model = tiny_model()
    for layout in ("packed", "padded"):
        given = lay_out(rows, tokens_per_micro_batch=100, layout=layout)[0]
        read = lay_out(mapped, tokens_per_micro_batch=100, layout=layout)[0]
        assert torch.equal(label_logits(model, given), label_logits(model, read))


def test_bfloat16_goes_through():
    model = tiny_model("qwen3").to(torch.bfloat16)
    [pack] = lay_out(make_rows([8] * 10, range(3, 43)), tokens_per_micro_batch=200, share_prefix=True)
    logits = label_logits(model, pack)
    assert logits.dtype == torch.bfloat16
    logits.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_call_without_a_pack_is_refused():
    with pytest.raises(ModelError, match="without a pack"):
        tiny_model()(input_ids=torch.tensor([[3, 4, 5]]))


def test_attention_dropout_is_refused_rather_than_left_out():
    model = tiny_model(attention_dropout=0.1).train()
    [pack] = lay_out(make_rows([20, 30]), tokens_per_micro_batch=100)
    with pytest.raises(ModelError, match="dropout"):
        label_logits(model, pack)
    assert "attention_dropout" in supports_packing(model.config)


@pytest.mark.parametrize("family", sorted(PACKED_FAMILIES - BIDIRECTIONAL_FAMILIES))
def test_families_in_the_list_may_be_packed(family):
    assert supports_packing(tiny_config(family)) is None


def test_what_may_not_be_packed_says_why():
    assert "gpt2" in supports_packing(transformers.GPT2Config())
    assert "also see" in supports_packing(tiny_config("gemma3_text", use_bidirectional_attention=True))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("kind", ["linear", "dynamic"])
def test_position_encodings_that_follow_the_row_length_are_packed_only_where_they_do_not(family, kind):
    config = tiny_config(family, rope_parameters={"rope_type": kind, "factor": 2.0, "rope_theta": 1e4})
    if kind == "linear":
        assert supports_packing(config) is None
        return
    assert "dynamic" in supports_packing(config)
    assert supports_packing(config, longest_row_tokens=512) is None
    assert "dynamic" in supports_packing(config, longest_row_tokens=513)


def longrope_model():
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 32,
    }
    return tiny_model("phi3", rope_parameters=rope, original_max_position_embeddings=32)


def test_longrope_rows_are_packed_up_to_the_length_where_the_encoding_changes():
    model = longrope_model()
    assert "longrope" in supports_packing(model.config)
    assert supports_packing(model.config, longest_row_tokens=32) is None
    assert "longrope" in supports_packing(model.config, longest_row_tokens=33)

    def logits_of_first(lengths):
        rows = make_rows(lengths)
        [pack] = lay_out(rows, tokens_per_micro_batch=100, share_prefix=False)
        at = pack.rows.index(0)
        return label_logits(model, pack)[torch.tensor(pack.label_rows_L == at)]

    # The reason for the refusal: a longer neighbour changes how a row is encoded.
    torch.testing.assert_close(logits_of_first([20, 32]), logits_of_first([20]))
    assert not torch.allclose(logits_of_first([20, 33]), logits_of_first([20]), atol=1e-3)
