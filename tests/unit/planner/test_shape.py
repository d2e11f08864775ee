"""Shapes of models: counts agree with the catalog, and a config without its numbers is refused with all it lacks."""

from __future__ import annotations

import pytest

from tunesmith.catalog.entries import catalog_entries
from tunesmith.errors import ModelError
from tunesmith.planner.shape import shape_of_config, shape_of_entry


def config_of(entry):
    return {
        "model_type": entry.architecture,
        "hidden_size": entry.hidden_size,
        "intermediate_size": entry.intermediate_size,
        "num_hidden_layers": entry.layers,
        "num_attention_heads": entry.attention_heads,
        "num_key_value_heads": entry.key_value_heads,
        "head_dim": entry.head_dim,
        "vocab_size": entry.vocabulary_size,
        "max_position_embeddings": entry.context_length,
        "sliding_window": entry.sliding_window,
        "tie_word_embeddings": entry.tied_embeddings,
    }


@pytest.mark.parametrize("entry", catalog_entries(), ids=lambda entry: entry.id)
def test_a_config_s_parameters_are_those_that_the_catalog_knows(entry):
    assert shape_of_config(config_of(entry), entry.id) == shape_of_entry(entry)


@pytest.mark.parametrize("entry", catalog_entries(), ids=lambda entry: entry.id)
def test_matrices_have_the_names_that_the_catalog_lists(entry):
    matrices = shape_of_entry(entry).matrices
    assert {matrix.name.rpartition(".")[2] for matrix in matrices} == set(entry.lora_targets)
    assert set(entry.attention_targets) <= {
        matrix.name.rpartition(".")[2] for matrix in matrices if matrix.is_attention
    }


def test_the_tiny_model_is_counted_by_hand(tiny):
    embeddings, norm = 400 * 32, 32
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64 + 2 * 32
    assert tiny.parameters == embeddings + 2 * layer + norm == 31_392
    assert (tiny.query_size, tiny.key_value_size, tiny.layer_parameters) == (32, 16, layer)


def test_what_a_config_leaves_out_is_what_its_family_means(tiny_config):
    del tiny_config["tie_word_embeddings"], tiny_config["head_dim"], tiny_config["num_key_value_heads"]
    llama = shape_of_config(tiny_config, "tiny")
    assert (llama.tied_embeddings, llama.head_dim, llama.key_value_heads) == (False, 8, 4)
    gemma = shape_of_config({**tiny_config, "model_type": "gemma2"}, "tiny")
    assert (gemma.tied_embeddings, gemma.head_dim) == (True, 256)


def test_a_window_that_is_not_used_is_none(tiny_config):
    qwen = {**tiny_config, "model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}
    assert shape_of_config(qwen, "tiny").sliding_window is None
    assert shape_of_config({**tiny_config, "model_type": "mistral", "sliding_window": 8}, "tiny").sliding_window == 8


def test_biases_of_a_config_count(tiny_config, tiny):
    biased = shape_of_config({**tiny_config, "attention_bias": True, "mlp_bias": True}, "tiny")
    assert biased.parameters - tiny.parameters == 2 * (32 + 16 + 16 + 32 + 64 + 64 + 32)


def test_all_numbers_that_are_missing_or_none_are_named_at_once(tiny_config):
    broken = {**tiny_config, "hidden_size": "wide", "vocab_size": 0, "head_dim": True}
    del broken["num_hidden_layers"]
    with pytest.raises(ModelError) as caught:
        shape_of_config(broken, "mine")
    assert caught.value.code == "model.shape_number"
    places = {problem.place for problem in caught.value.problems}
    assert places == {"mine: hidden_size", "mine: vocab_size", "mine: head_dim", "mine: num_hidden_layers"}


@pytest.mark.parametrize("architecture", ["mixtral", "gpt2", None])
def test_an_architecture_without_a_plan_is_refused(tiny_config, architecture):
    with pytest.raises(ModelError) as caught:
        shape_of_config({**tiny_config, "model_type": architecture}, "mine")
    assert caught.value.code == "model.shape_unknown"
    assert "llama" in str(caught.value)


def test_facts_are_what_resolving_needs(tiny):
    facts = tiny.facts(has_chat_template=True)
    assert (facts.name, facts.parameters, facts.model_type, facts.layers) == ("tiny", 31_392, "llama", 2)
