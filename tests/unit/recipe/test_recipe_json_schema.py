"""The JSON schema that editors use says what the reader says."""

from __future__ import annotations

import jsonschema
import pytest
from recipe_cases import SHORTEST

from tunesmith.recipe.load import apply_overrides, recipe_json_schema

SCHEMA = recipe_json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_it_is_a_valid_schema_of_its_dialect():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert jsonschema.validators.validator_for(SCHEMA) is jsonschema.Draft202012Validator


@pytest.mark.parametrize(
    "setting", ["model=x", "technique=lora", "technique=full", "technique.rank=8", "objective=sft"]
)
def test_it_takes_what_the_reader_takes(setting):
    VALIDATOR.validate(apply_overrides(SHORTEST, [setting]))


@pytest.mark.parametrize(
    "setting",
    [
        "fit=1",
        "train.epoch=2",
        "technique.rnk=2",
        "technique={name: full, rank: 2}",
        "technique=lorra",
        "technique=3",
        "objective=dpoo",
        "data.train=[]",
        "data.train=[{path: a, x: 1}]",
        "train.seed=-1",
        "evaluate.metrics=[]",
    ],
)
def test_it_refuses_what_the_reader_refuses(setting):
    assert not VALIDATOR.is_valid(apply_overrides(SHORTEST, [setting]))


def test_it_needs_model_and_data():
    assert [error.message for error in VALIDATOR.iter_errors({})] == [
        "'model' is a required property",
        "'data' is a required property",
    ]


def test_every_key_says_what_it_is():
    parts = {"Recipe": SCHEMA, **SCHEMA["$defs"]}
    silent = [
        f"{name}.{key}"
        for name, part in parts.items()
        for key, value in part["properties"].items()
        if "description" not in value and "$ref" not in value and key != "name"
    ]
    assert silent == []
