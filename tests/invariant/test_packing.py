"""Rows learn the same, laid out in any way: alone, packed, or behind a prefix computed once.

The truth is each row alone through the library's model with the library's own attention and all of its logits.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from tiny_models import FAMILIES, VOCABULARY_SIZE, WINDOW, tiny_config
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from tunesmith.catalog.entries import catalog_entries
from tunesmith.data.packs import lay_out
from tunesmith.data.types import Pack, Segment, TokenRow
from tunesmith.errors import ModelError
from tunesmith.models.attention import ATTENTION, BIDIRECTIONAL_FAMILIES, PACKED_FAMILIES, supports_packing
from tunesmith.models.forward import label_logits

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG_ROPE = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "short_factor": [1.1, 1.3],
        "long_factor": [2.0, 5.0],
    },
    # Phi's configs name it here, and the library copies it into the parameters.
    "original_max_position_embeddings": 256,
}
PREFIX = 21  # past the tiny models' window, as are most rows' own tokens

Trace = tuple[dict[int, list[float]], dict[str, torch.Tensor]]


@pytest.fixture(autouse=True)
def _no_float32_inside(monkeypatch):
    """Norms and rotations of the library compute in float32 always, which would hide errors smaller than 1e-7."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def tiny_model(family, dtype=torch.float64, seed=0, **overrides):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(tiny_config(family, **overrides), dtype=dtype).eval()


def packed(model):
    model = copy.deepcopy(model)
    model.set_attn_implementation(ATTENTION)
    return model


def make_row(rng, length, prefix=(), gap=True):
    """A row with a trained end, and in it a token that is not trained."""
    tokens = np.concatenate([np.array(prefix, dtype=np.int64), rng.integers(3, VOCABULARY_SIZE, length)])
    trained = np.arange(len(tokens)) >= max(1, len(prefix), len(tokens) - 6)
    trained[-3] &= not gap
    return TokenRow(tokens, trained, "test")


def make_rows(seed=0):
    """Rows of all kinds: short and long, two families with a common beginning, some with nothing in common."""
    rng = np.random.default_rng(seed)
    one, other = rng.integers(3, VOCABULARY_SIZE, PREFIX), rng.integers(3, VOCABULARY_SIZE, 5)
    rows = [make_row(rng, length, one) for length in (3, 11, 7, 3, 40)]
    rows += [make_row(rng, length, other) for length in (4, 4, 5)]
    rows += [make_row(rng, length) for length in (4, 5, 33, 20)]
    # The first own token is trained: what the end of the prefix predicts differs from row to row.
    rows += [TokenRow(row.token_ids_T, np.arange(len(row.token_ids_T)) >= PREFIX, "test") for row in rows[1:3]]
    return list(enumerate(rows))


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def alone(model, rows) -> Trace:
    """Losses by row and summed gradients of rows that go through the library's model one by one."""
    losses = {}
    model.zero_grad(set_to_none=True)
    for index, row in rows:
        tokens = torch.tensor(row.token_ids_T)
        trained = torch.tensor(row.trained_T)[1:]
        logits = model(input_ids=tokens[None]).logits[0, :-1]
        losses_L = cross_entropy(logits[trained], tokens[1:][trained], reduction="none")
        losses_L.sum().backward()
        losses[index] = losses_L.tolist()
    return losses, gradients(model)


def in_packs(model, packs) -> Trace:
    losses: dict[int, list[float]] = {}
    model.zero_grad(set_to_none=True)
    for pack in packs:
        losses_L = cross_entropy(label_logits(model, pack), torch.tensor(pack.labels_L), reduction="none")
        losses_L.sum().backward()
        for row, loss in zip(pack.label_rows_L, losses_L.tolist(), strict=True):
            losses.setdefault(pack.rows[row], []).append(loss)
    return losses, gradients(model)


def distance(one: Trace, other: Trace) -> float:
    """The largest difference of losses, and of gradients relative to the largest gradient."""
    assert one[0].keys() == other[0].keys()
    assert one[1].keys() == other[1].keys()
    losses = max(float(np.abs(np.subtract(one[0][row], other[0][row])).max()) for row in one[0])
    largest = max(float(grad.abs().max()) for grad in one[1].values())
    grads = max(float((one[1][name] - other[1][name]).abs().max()) for name in one[1])
    return max(losses, grads / largest)


LAYOUTS = {
    "packed": {"tokens_per_micro_batch": 130, "layout": "packed", "share_prefix": False},
    "shared": {"tokens_per_micro_batch": 130, "layout": "packed", "share_prefix": True},
    "one pack": {"tokens_per_micro_batch": 4096, "layout": "packed", "share_prefix": True},
    "padded": {"tokens_per_micro_batch": 130, "layout": "padded", "share_prefix": True},
}


def test_every_family_that_may_be_packed_is_tested():
    assert set(FAMILIES) >= PACKED_FAMILIES - BIDIRECTIONAL_FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_packed_rows_learn_what_they_learn_alone(family, precision, monkeypatch):
    if precision == "float32":
        monkeypatch.undo()
    rows = make_rows()
    model = tiny_model(family, getattr(torch, precision))
    tolerance = 1e-9 if precision == "float64" else 1e-5
    truth = alone(model, rows)
    for name, settings in LAYOUTS.items():
        packs = lay_out(rows, **settings)
        assert any(segment.parent is not None for pack in packs for segment in pack.segments) == (
            name in {"shared", "one pack"}
        )
        assert distance(truth, in_packs(packed(model), packs)) < tolerance, name


# What the catalog's models have, one tiny model for each kind; those of one shape that differ in how positions are
# turned stand beside one another.
CATALOG_MODELS = [
    ("llama", {}),
    ("llama", {"num_key_value_heads": 4}),
    ("llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": False}),
    ("qwen2", {}),
    ("qwen2", {"tie_word_embeddings": False}),
    ("qwen3", {}),
    ("qwen3", {"head_dim": 16}),
    ("gemma2", {"head_dim": 16}),
    ("gemma3_text", {"head_dim": 16}),
    ("mistral", {}),
    ("mistral", {"sliding_window": None}),
    ("mistral", {"sliding_window": None, "head_dim": 16}),
    ("phi3", {"num_key_value_heads": 4}),
    ("phi3", {"num_key_value_heads": 4, "sliding_window": WINDOW}),
    ("phi3", {"sliding_window": WINDOW}),
    ("phi3", {**LONG_ROPE, "tie_word_embeddings": True}),
    ("smollm3", {}),
]


def shape_of(
    architecture: str, window: int | None, hidden_size: int, heads: int, key_value_heads: int, head_dim: int
) -> tuple[str, bool, bool, bool]:
    """What attention must get right: windows, key heads for several query heads, heads as wide as the stream or not."""
    return architecture, window is not None, heads > key_value_heads, heads * head_dim == hidden_size


def shape_of_config(config):
    heads, width = config.num_attention_heads, config.hidden_size
    head_dim = getattr(config, "head_dim", None) or width // heads
    # Models of other families may have a size of window that they do not use.
    window = config.sliding_window if config.model_type in {"mistral", "phi3", "gemma2", "gemma3_text"} else None
    return shape_of(config.model_type, window, width, heads, config.num_key_value_heads, head_dim)


def test_every_architecture_of_the_catalog_is_tested_in_its_shape():
    wanted = {
        shape_of(
            entry.architecture,
            entry.sliding_window,
            entry.hidden_size,
            entry.attention_heads,
            entry.key_value_heads,
            entry.head_dim,
        )
        for entry in catalog_entries()
        if entry.architecture not in BIDIRECTIONAL_FAMILIES
    }
    assert wanted - {shape_of_config(tiny_config(family, **values)) for family, values in CATALOG_MODELS} == set()
    assert {family for family, *_ in wanted} <= PACKED_FAMILIES


@pytest.mark.parametrize(("family", "values"), CATALOG_MODELS)
def test_models_like_those_of_the_catalog_learn_the_same_in_packs(family, values):
    rows = make_rows()
    model = tiny_model(family, **values)
    longest = max(len(row.token_ids_T) for _, row in rows)
    assert longest > 2 * WINDOW
    assert supports_packing(model.config, longest) is None
    truth = alone(model, rows)
    for name in ("packed", "shared"):
        assert distance(truth, in_packs(packed(model), lay_out(rows, **LAYOUTS[name]))) < 1e-9, name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_of_beginnings_changes_nothing(family):
    rng = np.random.default_rng(1)
    instruction, *documents = (rng.integers(3, VOCABULARY_SIZE, length) for length in (9, PREFIX, 13))
    rows = [make_row(rng, 5, np.concatenate([instruction, document])) for document in documents for _ in range(3)]
    rows = list(enumerate([*rows, make_row(rng, 12, instruction)]))
    [pack] = lay_out(rows, **LAYOUTS["one pack"])
    parents = [segment.parent for segment in pack.segments]
    assert parents.count(None) == 1
    assert sum(parent is not None and parents[parent] is not None for parent in parents) == 6
    model = tiny_model(family)
    assert distance(alone(model, rows), in_packs(packed(model), [pack])) < 1e-9


@pytest.mark.parametrize("family", FAMILIES)
def test_a_beginning_longer_than_a_pack_changes_nothing(family):
    rng = np.random.default_rng(2)
    instruction, *documents = (rng.integers(3, VOCABULARY_SIZE, length) for length in (70, 9, 12))
    rows = [make_row(rng, 6, np.concatenate([instruction, document])) for document in documents for _ in range(3)]
    rows = list(enumerate([*rows, make_row(rng, 3, instruction), make_row(rng, 60, instruction)]))
    packs = lay_out(rows, tokens_per_micro_batch=60)
    assert [(len(pack.rows), pack.tokens) for pack in packs] == [(1, 70 + 60), (3, 70 + 12 + 18), (4, 70 + 9 + 18 + 3)]
    model = tiny_model(family)
    assert distance(alone(model, rows), in_packs(packed(model), packs)) < 1e-9


def test_rows_beyond_the_short_range_of_longrope_are_not_packed():
    config = tiny_config("phi3", **LONG_ROPE)
    assert supports_packing(config, 256) is None
    assert "depend on the length" in (supports_packing(config, 257) or "")
    assert "depend on the length" in (supports_packing(config) or "")


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_row_alone_in_its_pack_needs_no_attention_of_ours(family):
    rows = make_rows()
    model = tiny_model(family)
    assert model.config._attn_implementation in {"sdpa", "eager"}
    packs = lay_out(rows, tokens_per_micro_batch=64, layout="padded", share_prefix=False)
    assert distance(alone(model, rows), in_packs(model, packs)) < 1e-9


def test_the_librarys_attention_takes_the_rows_of_a_pack_one_by_one():
    rows = make_rows()
    [pack] = lay_out(rows, tokens_per_micro_batch=4096, layout="packed", share_prefix=False)
    model = tiny_model("llama")
    assert distance(alone(model, rows), in_packs(model, [pack])) < 1e-9


def test_the_librarys_attention_gets_no_shared_prefix():
    pack = lay_out(make_rows(), **LAYOUTS["shared"])[0]
    with pytest.raises(ModelError, match="share a prefix"):
        label_logits(tiny_model("llama"), pack)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_activation_checkpointing_changes_nothing(family):
    packs = lay_out(make_rows(), **LAYOUTS["shared"])
    model = packed(tiny_model(family))
    plain = in_packs(model, packs)
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    calls = 0
    inner = type(model.model.layers[0].mlp).forward

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        return inner(*args, **kwargs)

    model.model.layers[0].mlp.forward = counted.__get__(model.model.layers[0].mlp)
    assert distance(plain, in_packs(model, packs)) < 1e-12
    assert calls == 2 * len(packs)  # once forward, once more for the backward


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks by the old name
@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_adapter_learns_the_same_in_packs(checkpointing):
    rows = make_rows()
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        wrapped = peft.get_peft_model(tiny_model("qwen3"), config, autocast_adapter_dtype=False)
    truth = alone(wrapped, rows)
    wrapped.get_base_model().set_attn_implementation(ATTENTION)
    if checkpointing:
        wrapped.enable_input_require_grads()
        wrapped.get_base_model().activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": False}
        )
        wrapped.train()
    assert distance(truth, in_packs(wrapped, lay_out(rows, **LAYOUTS["shared"]))) < 1e-9
    assert all("lora" in name for name in truth[1])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text"])
def test_prefixes_of_prefixes_are_exact(family):
    """A tree of three levels: laid out by hand, since packs use two."""
    rng = np.random.default_rng(3)
    root, left, right = (rng.integers(3, VOCABULARY_SIZE, length) for length in (10, 6, 4))
    leaves = [rng.integers(3, VOCABULARY_SIZE, length) for length in (5, 9, 3, 7)]
    pieces = [root, left, leaves[0], leaves[1], right, leaves[2], leaves[3]]
    parents = [None, 0, 1, 1, 0, 4, 4]
    whole_rows = [
        np.concatenate([root, branch, leaf]) for branch, leaf in zip([left, left, right, right], leaves, strict=True)
    ]
    rows = [
        (at, TokenRow(tokens, np.arange(len(tokens)) > len(tokens) - len(leaf), "test"))
        for at, (tokens, leaf) in enumerate(zip(whole_rows, leaves, strict=True))
    ]
    starts = np.cumsum([0, *map(len, pieces)]).tolist()
    segments = tuple(Segment(starts[at], starts[at + 1], parent) for at, parent in enumerate(parents))
    depth = [0, 10, 16, 16, 10, 14, 14]
    leaf_segments = [segments[at] for at in (2, 3, 5, 6)]
    tree = Pack(
        token_ids_T=np.concatenate(pieces),
        position_ids_T=np.concatenate([d + np.arange(len(p)) for d, p in zip(depth, pieces, strict=True)]),
        segments=segments,
        label_positions_L=np.concatenate([np.arange(s.start, s.end - 1) for s in leaf_segments]),
        labels_L=np.concatenate([leaf[1:] for leaf in leaves]),
        label_rows_L=np.concatenate([np.full(len(leaf) - 1, at) for at, leaf in enumerate(leaves)]),
        rows=(0, 1, 2, 3),
        kinds_S=np.zeros(4, dtype=np.int64),
    )
    model = tiny_model(family)
    assert distance(alone(model, rows), in_packs(packed(model), [tree])) < 1e-9


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_see_each_other_would_be_noticed(family):
    """The planted fault: the same packs with their segments merged into one."""
    rows = make_rows()
    model = tiny_model(family)
    packs = lay_out(rows, **LAYOUTS["one pack"])
    merged = [dataclasses.replace(pack, segments=(Segment(0, pack.tokens),)) for pack in packs]
    plain = lay_out(rows, tokens_per_micro_batch=4096, layout="packed", share_prefix=False)
    merged_plain = [dataclasses.replace(pack, segments=(Segment(0, pack.tokens),)) for pack in plain]
    truth = alone(model, rows)
    assert distance(truth, in_packs(packed(model), merged)) > 1e-2
    assert distance(truth, in_packs(packed(model), merged_plain)) > 1e-2


@pytest.mark.parametrize("family", ["gemma3_text", "mistral"])
def test_a_window_that_is_one_token_off_would_be_noticed(family):
    rows = make_rows()
    model = tiny_model(family)
    wrong = packed(model)
    for module in wrong.modules():
        if getattr(module, "sliding_window", None):
            module.sliding_window += 1
    if family == "mistral":
        wrong.config.sliding_window = WINDOW + 1
    assert distance(alone(model, rows), in_packs(wrong, lay_out(rows, **LAYOUTS["shared"]))) > 1e-3


def test_a_model_from_a_folder_takes_the_attention_by_name(tmp_path: Path):
    rows = make_rows()
    model = tiny_model("smollm3")
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64, attn_implementation=ATTENTION)
    assert distance(alone(model, rows), in_packs(loaded, lay_out(rows, **LAYOUTS["shared"]))) < 1e-9
