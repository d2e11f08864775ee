"""Recipes and facts that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st

from tunesmith.errors import Problem, RecipeError
from tunesmith.recipe.facts import DataFacts, HostFacts, ModelFacts
from tunesmith.recipe.load import apply_overrides, parse_recipe
from tunesmith.recipe.schema import Recipe

SHORTEST: dict[str, Any] = {"model": "tiny", "data": {"train": "train.jsonl"}}

# 900 rows of 120 tokens that answer with 20 tokens; a small model; a laptop of two cores.
DATA = DataFacts(
    task="chat",
    shape="messages",
    rows=900,
    validation_rows=100,
    tokens=108_000,
    trained_tokens=18_000,
    longest_row=300,
    default_metrics=("exact_match", "token_f1"),
    answer_tokens=24,
)
TEXT = replace(DATA, task="text", shape="text", default_metrics=(), answer_tokens=0)
MODEL = ModelFacts("tiny", 135_000_000, 8192, True, "llama", "causal", 576, 30, 49_152)
HOST = HostFacts(cores=2, memory_bytes=16 * 2**30, matmul_flops_per_second=200e9)


def recipe(*settings: str) -> Recipe:
    """The shortest recipe with settings."""
    return parse_recipe(apply_overrides(SHORTEST, settings))


def problems_of(call: Callable[[], Any]) -> list[Problem]:
    """The problems of the recipe error that a call raises."""
    with pytest.raises(RecipeError) as caught:
        call()
    return list(caught.value.problems)


def _optional(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=values)


_WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
_ABOVE_ZERO = st.floats(min_value=1e-300, max_value=1e300)
_SHARE = st.floats(min_value=0, max_value=1, exclude_max=True)
_COUNT = st.integers(1, 2**53 - 1)
_AUTO = st.just("auto")
_LISTS = st.lists(_WORDS, min_size=1, max_size=3)
_LORA = _optional(
    name=st.just("lora"),
    rank=_COUNT,
    alpha=_ABOVE_ZERO,
    targets=st.sampled_from(["all-linear", "attention"]) | _LISTS,
    dropout=_SHARE,
)
_SOURCE = st.fixed_dictionaries({"path": _WORDS}, optional={"weight": _ABOVE_ZERO})
_DATA = st.fixed_dictionaries(
    {"train": _WORDS | st.lists(_SOURCE, min_size=1, max_size=3)},
    optional={
        "validation": _SHARE.filter(bool) | _WORDS,
        "columns": _AUTO | st.dictionaries(_WORDS, _WORDS, max_size=3),
        "on_long_rows": st.sampled_from(["refuse", "skip", "truncate"]),
    },
)
_TRAIN = _optional(
    epochs=_AUTO | _ABOVE_ZERO,
    learning_rate=_AUTO | _ABOVE_ZERO,
    tokens_per_step=_AUTO | _COUNT,
    max_length=_AUTO | st.integers(2, 2**20),
    budget=st.none() | st.sampled_from(["90s", "10m", "1h30m", "500k tokens", "2M tokens"]),
    seed=st.integers(0, 2**32 - 1),
    clip=st.none() | _ABOVE_ZERO,
    warmup=_SHARE,
    share_prefix=_AUTO | st.booleans(),
    layout=st.sampled_from(["packed", "padded"]),
)
_EVALUATE = _optional(
    metrics=_AUTO | _LISTS, rows=_AUTO | _COUNT, few_shot=_AUTO | st.integers(0, 9), learning_curve=st.booleans()
)

# Plain content of recipes that are right.
PLAIN_RECIPES = st.fixed_dictionaries(
    {"model": _WORDS, "data": _DATA},
    optional={
        "objective": st.sampled_from(["auto", "sft", {"name": "sft"}, {}]),
        "technique": st.sampled_from(["lora", "full", {"name": "full"}]) | _LORA,
        "train": _TRAIN,
        "evaluate": _EVALUATE,
    },
)
