"""Small things that the planner's tests share: two models, data, machines, and recipes resolved with settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from recipe_cases import recipe

from tunesmith.catalog.entries import find_entry
from tunesmith.planner.changes import Change, change_of
from tunesmith.planner.hardware import Hardware
from tunesmith.planner.shape import ModelShape, shape_of_config, shape_of_entry
from tunesmith.recipe.facts import DataFacts
from tunesmith.recipe.refusal import Facts
from tunesmith.recipe.resolve import resolve
from tunesmith.recipe.resolved import Resolved

TINY_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 400,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
# What none of the tests here is about: what they measure is said by each.
PLAIN = ("train.precision=float32", "train.tokens_per_step=2048", "train.activation_checkpointing=false")


@pytest.fixture
def tiny_config() -> dict[str, Any]:
    return dict(TINY_CONFIG)


@pytest.fixture
def tiny() -> ModelShape:
    return shape_of_config(TINY_CONFIG, "tiny")


@pytest.fixture
def starter() -> ModelShape:
    entry = find_entry("smollm2-135m-instruct")
    assert entry is not None
    return shape_of_entry(entry)


@pytest.fixture
def data() -> DataFacts:
    """Rows of 217 tokens, of which 119 train: conversations such as those of GSM8K."""
    return DataFacts(
        task="math",
        shape="messages",
        rows=7000,
        validation_rows=400,
        tokens=7000 * 217,
        trained_tokens=7000 * 119,
        longest_row=520,
        default_metrics=("final_number",),
        answer_tokens=256,
    )


@pytest.fixture
def processor() -> Hardware:
    """Two cores of 200 GFLOP/s that have 24 GB and are used to 60 %."""
    return Hardware(
        id="two-cores",
        name="Two cores",
        device="cpu",
        cores=2,
        host_memory_bytes=24 * 10**9,
        matmul_flops_per_second={"float32": 200e9},
        memory_bandwidth=20e9,
        reached=0.6,
        source="made up",
    )


@pytest.fixture
def gpu() -> Hardware:
    """Of 80 GB, with a host of 1 TB."""
    return Hardware(
        id="a-gpu",
        name="A GPU",
        device="cuda",
        device_memory_bytes=80 * 10**9,
        host_memory_bytes=10**12,
        matmul_flops_per_second={"float32": 20e12, "bfloat16": 300e12},
        memory_bandwidth=2e12,
        link_bytes_per_second=300e9,
        source="made up",
    )


@pytest.fixture
def settled(starter: ModelShape, data: DataFacts) -> Callable[..., Resolved]:
    """A resolved recipe with settings, for the starter model unless another one is given."""

    def make(*settings: str, hardware: Hardware, shape: ModelShape = starter, data: DataFacts = data) -> Resolved:
        facts = shape.facts(has_chat_template=True)
        return resolve(recipe(*PLAIN, *settings), data, facts, hardware.host_facts())

    return make


@pytest.fixture
def changing(starter: ModelShape, data: DataFacts) -> Callable[..., Change]:
    """How a recipe with settings changes, for the starter model unless another one is given."""

    def make(*settings: str, hardware: Hardware, shape: ModelShape = starter, data: DataFacts = data) -> Change:
        wanted = recipe(*PLAIN, *settings)
        facts = Facts(data, shape.facts(has_chat_template=True), hardware.host_facts())
        return change_of(wanted, resolve(wanted, data, facts.model, facts.host), facts)

    return make
