"""Trained parameters, counted by hand; tests/contract/test_planner_trained.py counts the built models."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunesmith.planner.shape import shape_of_config
from tunesmith.planner.trained import adapted_matrices, model_parameters, trained_parameters
from tunesmith.recipe.techniques import Dora, Freeze, Full, Lora, PeftMethod, Qdora, Qlora

# Inputs and outputs of all matrices of a layer of the tiny model, added up.
EDGES = (32 + 32) + (32 + 16) + (32 + 16) + (32 + 32) + 3 * (32 + 64)
OUTPUTS = 32 + 16 + 16 + 32 + 64 + 64 + 32


def test_lora_has_two_thin_matrices_for_each_matrix(tiny):
    assert trained_parameters(tiny, Lora(rank=3)) == 2 * 3 * EDGES
    assert trained_parameters(tiny, Qlora(rank=3)) == 2 * 3 * EDGES


def test_dora_has_a_length_for_each_output_as_well(tiny):
    assert trained_parameters(tiny, Dora(rank=3)) == 2 * (3 * EDGES + OUTPUTS)
    assert trained_parameters(tiny, Qdora(rank=3)) == 2 * (3 * EDGES + OUTPUTS)


def test_targets_choose_matrices(tiny):
    attention = 2 * (32 + 32) + 2 * (32 + 16)
    assert trained_parameters(tiny, Lora(rank=1, targets="attention")) == 2 * attention
    assert trained_parameters(tiny, Lora(rank=1, targets=("q_proj", "mlp.down_proj"))) == 2 * (64 + 96)
    assert trained_parameters(tiny, Lora(rank=1, targets=("model.layers.1.self_attn.q_proj",))) == 64


def test_the_longest_pattern_that_names_a_matrix_gives_its_rank(tiny):
    patterns = {"q_proj": 2, "layers.1.self_attn.q_proj": 5}
    first, second = adapted_matrices(tiny, Lora(rank=1, targets=("q_proj",), rank_pattern=patterns))
    assert [first[0].rank, second[0].rank] == [2, 5]
    assert trained_parameters(tiny, Lora(rank=1, targets=("q_proj",), rank_pattern=patterns)) == (2 + 5) * 64


def test_full_trains_all_and_freeze_the_last_layers(tiny, tiny_config):
    layer = tiny.layer_parameters
    assert trained_parameters(tiny, Full()) == tiny.parameters
    assert trained_parameters(tiny, Freeze(layers=1, head=False)) == layer
    assert trained_parameters(tiny, Freeze(layers=1)) == layer + 32
    untied = shape_of_config({**tiny_config, "tie_word_embeddings": False}, "untied")
    assert trained_parameters(untied, Freeze(layers=2)) == 2 * layer + 32 + 400 * 32
    assert trained_parameters(tiny, Freeze(layers=9, head=False)) == 2 * layer


def test_a_head_trains_in_any_case(tiny, tiny_config):
    plain = trained_parameters(tiny, Lora())
    assert plain is not None
    of_texts = {"objective": "sequence_classification", "labels": 5}
    assert trained_parameters(tiny, Lora(), **of_texts) == plain + 32 * 5
    assert trained_parameters(tiny, Lora(), objective="token_classification", labels=5) == plain + 32 * 5 + 5
    untied = shape_of_config({**tiny_config, "tie_word_embeddings": False}, "untied")
    assert model_parameters(untied, **of_texts) == untied.parameters - 400 * 32 + 32 * 5


def test_new_tokens_train_their_rows(tiny, tiny_config):
    plain = trained_parameters(tiny, Lora())
    assert plain is not None
    assert trained_parameters(tiny, Lora(), new_tokens=3) == plain + 3 * 32
    untied = shape_of_config({**tiny_config, "tie_word_embeddings": False}, "untied")
    assert trained_parameters(untied, Lora(), new_tokens=3) == plain + 2 * 3 * 32


def test_methods_take_the_recipe_s_settings_before_their_own(tiny):
    assert trained_parameters(tiny, PeftMethod(name="vera", settings={"r": 7})) == 2 * (OUTPUTS + 7 * 7)
    assert trained_parameters(tiny, PeftMethod(name="prompt_tuning", settings={"num_virtual_tokens": 4})) == 4 * 32
    assert trained_parameters(tiny, PeftMethod(name="ia3")) == 2 * (16 + 16 + 64)
    assert trained_parameters(tiny, PeftMethod(name="ia3", targets=("o_proj",))) == 2 * 32


@pytest.mark.parametrize("name", ["osf", "lily"])
def test_what_has_no_formula_is_not_guessed(tiny, name):
    assert trained_parameters(tiny, PeftMethod(name=name)) is None


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("adamss", {"subspace_rank": 2}),
        ("hira", {"layers_to_transform": [1]}),
        ("hira", {"rank_pattern": {"q_proj": 3}}),
        ("boft", {"boft_n_butterfly_factor": 2}),
        ("p_tuning", {"encoder_reparameterization_type": "LSTM"}),
        ("prefix_tuning", {"prefix_projection": True}),
    ],
)
def test_settings_that_no_formula_follows_are_not_guessed(tiny, name, settings):
    assert trained_parameters(tiny, PeftMethod(name=name, settings=settings)) is None


def test_more_rank_or_more_layers_train_more(tiny):
    counts = [trained_parameters(tiny, Lora(rank=rank)) for rank in (1, 2, 8)]
    assert counts == sorted(set(counts))
    assert trained_parameters(replace(tiny, layers=3), Lora()) * 2 == trained_parameters(tiny, Lora()) * 3
