"""Settings on the command line: key=value over a recipe's plain content."""

from __future__ import annotations

import pytest
from recipe_cases import SHORTEST, problems_of, recipe

from tunesmith.recipe.load import apply_overrides, parse_recipe
from tunesmith.recipe.techniques import Full, Lora

WITH_LORA = {**SHORTEST, "technique": {"name": "lora", "rank": 64}}


@pytest.mark.parametrize(
    ("technique", "settings", "expected"),
    [
        ("lora", ["technique.rank=8"], Lora(rank=8)),
        (None, ["technique.rank=8"], Lora(rank=8)),
        ({"name": "lora", "rank": 64}, ["technique.alpha=8"], Lora(rank=64, alpha=8)),
        ({"name": "lora", "rank": 64}, ["technique=full"], Full()),
        ({"name": "lora", "rank": 64}, ["technique=full", "technique=lora", "technique.rank=4"], Lora(rank=4)),
        ("full", ["technique.name=lora"], Lora()),
    ],
)
def test_techniques(technique, settings, expected):
    mapping = SHORTEST if technique is None else {**SHORTEST, "technique": technique}
    assert parse_recipe(apply_overrides(mapping, settings)).technique == expected


def test_a_technique_does_not_silently_lose_what_was_set_for_another():
    for mapping, settings in ((WITH_LORA, ["technique.name=full"]), (SHORTEST, ["technique=full", "technique.rank=8"])):
        (problem,) = problems_of(lambda mapping=mapping, given=settings: parse_recipe(apply_overrides(mapping, given)))
        assert (problem.place, problem.hint) == ("technique.rank", "only lora has rank")


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("train.seed=1", ("train", "seed"), 1),
        (" train . seed = 1", ("train", "seed"), 1),
        ("train.clip=null", ("train", "clip"), None),
        ("train.clip=", ("train", "clip"), None),
        ("train.share_prefix=true", ("train", "share_prefix"), True),
        ("train.budget=2M tokens", ("train", "budget"), "2M tokens"),
        ("model=a=b", ("model",), "a=b"),
        ('model="2"', ("model",), "2"),
        ("data.columns={text: body}", ("data", "columns"), {"text": "body"}),
        ("data.columns.text=body", ("data", "columns", "text"), "body"),
        ("evaluate.metrics=[accuracy, macro_f1]", ("evaluate", "metrics"), ["accuracy", "macro_f1"]),
    ],
)
def test_values_are_yaml(setting, key, value):
    found = apply_overrides(SHORTEST, [setting])
    for part in key:
        found = found[part]
    assert found == value


def test_the_later_setting_wins():
    assert recipe("train.seed=1", "train.seed=2").train.seed == 2


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("train.epochs", "a setting is key=value: train.epochs"),
        ("", "a setting is key=value: "),
        ("=2", "a setting is key=value: =2"),
        ("train..epochs=2", "a setting is key=value: train..epochs=2"),
        (".epochs=2", "a setting is key=value: .epochs=2"),
        ("train.epochs=[1", "train.epochs: this is no YAML: expected ',' or ']', but got '<stream end>'"),
        ("train={seed: 1, seed: 2}", "train: a key is written twice: seed"),
        ("train=[&a x, *a]", "train: a recipe has no aliases: 1"),
        ("model=\0", "model: this is no YAML: unacceptable character #x0000: special characters are not allowed"),
        (f"model={'[' * 600}", "model: this is nested too deeply"),
    ],
)
def test_settings_that_cannot_be_read(setting, line):
    (problem,) = problems_of(lambda: apply_overrides(SHORTEST, [setting]))
    assert problem.code == "recipe.setting"
    assert problem.lines() == [line]


def test_a_setting_cannot_reach_into_a_list():
    mapping = {"model": "tiny", "data": {"train": [{"path": "a"}]}}
    (problem,) = problems_of(lambda: apply_overrides(mapping, ["data.train.0.weight=2"]))
    assert problem.lines() == [
        "data.train.0.weight: a setting cannot reach into a list: data.train",
        "  hint: set all of it: data.train=[...]",
    ]


def test_all_settings_that_cannot_be_read_are_named():
    assert len(problems_of(lambda: apply_overrides(SHORTEST, ["a", "model=tiny", "b"]))) == 2


def test_a_setting_below_a_plain_value_is_refused_in_the_end():
    (problem,) = problems_of(lambda: recipe("train.seed=1", "train.seed.x=2"))
    assert problem.lines() == ["train.seed: must be a whole number"]
