"""The few steps that a plan tries on this machine."""

from __future__ import annotations

import pytest
from recipe_cases import DATA, HOST, MODEL, TEXT, recipe

from tunesmith.jobs.probe import STEPS, probe_recipe
from tunesmith.recipe.resolve import resolve
from tunesmith.recipe.schema import Recipe


def probed(*settings: str) -> Recipe:
    wanted = recipe(*settings)
    return probe_recipe(wanted, resolve(wanted, DATA, MODEL, HOST))


def test_a_probe_trains_a_few_steps_of_the_same_size() -> None:
    found = probed("train.epochs=7", "train.tokens_per_step=2048", "train.budget=1h", "technique=dora")
    assert (found.train.epochs, found.train.budget) == ("auto", f"{STEPS * 2048} tokens")
    assert (found.train.tokens_per_step, found.technique.name) == (2048, "dora")


def test_a_probe_asks_for_short_answers_where_rows_have_any() -> None:
    assert probed().evaluate.max_new_tokens == 4
    text = recipe("task=text")
    assert probe_recipe(text, resolve(text, TEXT, MODEL, HOST)).evaluate.max_new_tokens == "auto"


def test_a_probe_exports_nothing() -> None:
    assert recipe("export=[gguf]").export
    assert probed("export=[gguf]").export == ()


def test_a_probe_waits_for_no_other_machine() -> None:
    found = probed("train.nodes=2", "train.devices=4", "strategy=zero2", "train.offload=true")
    assert (found.train.nodes, found.train.devices) == (1, 4)
    assert (found.strategy, found.train.offload) == ("zero2", True)
    alone = probed("train.nodes=2", "strategy=zero2", "train.offload=true")
    assert (alone.train.nodes, alone.strategy, alone.train.offload) == (1, "auto", False)


@pytest.mark.parametrize("fit", ["refuse", "auto", "try"])
def test_what_does_not_fit_is_handled_as_the_recipe_says(fit: str) -> None:
    assert probed(f"fit={fit}").fit == fit
