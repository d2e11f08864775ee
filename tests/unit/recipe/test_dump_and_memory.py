"""Line ends of Unicode survive a dump, and the memory estimate follows the packs that will be made."""

from __future__ import annotations

import pytest

from tunesmith.recipe.facts import DataFacts, HostFacts, ModelFacts
from tunesmith.recipe.load import apply_overrides, dump_recipe, load_recipe, parse_recipe
from tunesmith.recipe.resolve import resolve

SHORTEST = {"model": "tiny", "data": {"train": "train.jsonl"}}


@pytest.mark.parametrize("mark", ["\x85", "\u2028", "\u2029"])
def test_a_dump_keeps_line_ends_of_unicode(tmp_path, mark):
    recipe = parse_recipe({"model": mark, "data": {"train": f"a{mark}b", "columns": {mark: f" {mark}"}}})
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8", newline="")
    assert load_recipe(path) == recipe


def checkpointing(*settings: str, shared_prefix_tokens: int = 0) -> tuple[bool, str]:
    """Whether activations are checkpointed on 8 GiB for rows of 1,000 tokens in large steps, and why."""
    data = DataFacts(
        task="chat",
        shape="chat",
        rows=9_000,
        validation_rows=10,
        tokens=9_000_000,
        trained_tokens=90_000,
        longest_row=1_000,
        shared_prefix_tokens=shared_prefix_tokens,
    )
    model = ModelFacts("tiny", 135_000_000, 8192, True, "llama", "causal", 576, 30, 49_152)
    recipe = parse_recipe(apply_overrides(SHORTEST, ["train.tokens_per_step=8192", *settings]))
    resolved = resolve(recipe, data, model, HostFacts(cores=2, memory_bytes=8 * 2**30))
    return resolved.activation_checkpointing, resolved.reasons["train.activation_checkpointing"]


def test_larger_packs_need_more_memory():
    assert not checkpointing()[0]
    assert checkpointing("train.tokens_per_micro_batch=8192")[0]
    assert checkpointing(shared_prefix_tokens=800)[1] != checkpointing()[1]


def test_no_pack_is_larger_than_its_step():
    small_step = checkpointing("train.tokens_per_step=1024", "train.tokens_per_micro_batch=65536")
    assert small_step == checkpointing("train.tokens_per_step=1024")


def test_a_long_row_has_a_pack_of_its_own():
    assert checkpointing("train.tokens_per_micro_batch=16")[1] == checkpointing("train.tokens_per_micro_batch=1000")[1]
