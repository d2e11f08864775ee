"""A model in numbers and rows in tokens, for the tests of plans and advice."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from recipe_cases import DATA

from tunesmith.planner.hardware import Hardware
from tunesmith.planner.shape import shape_of_config
from tunesmith.recipe.facts import DataFacts

# Of the size of the starter model.
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
ROWS = replace(
    DATA,
    task="math",
    rows=7000,
    validation_rows=400,
    tokens=7000 * 217,
    trained_tokens=7000 * 119,
    longest_row=520,
    default_metrics=("final_number",),
    answer_tokens=256,
)


def facts_of(data: DataFacts) -> dict[str, Any]:
    model = shape_of_config(CONFIG, "model").facts(has_chat_template=True)
    return {"config": CONFIG, "data": asdict(data), "model": asdict(model)}


def machine_of_bytes(size: int) -> Hardware:
    """A processor with so little memory that a test can be short of it."""
    return Hardware(
        id="small",
        name="Small",
        device="cpu",
        host_memory_bytes=size,
        framework_bytes=2**20,
        matmul_flops_per_second={"float32": 1e11},
        source="this test",
    )
