"""resolved.json: reloads equal, passes later keys over, and its identity is that of the portable values alone."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
from recipe_cases import DATA, HOST, MODEL, recipe

from tunesmith.errors import RecipeError
from tunesmith.recipe.objectives import Orpo
from tunesmith.recipe.resolve import resolve
from tunesmith.recipe.resolved import HOST as HOST_KEYS
from tunesmith.recipe.resolved import KEYS, PORTABLE, explain, resolved_from_json
from tunesmith.recipe.techniques import Full

GOLDEN = Path(__file__).with_name("resolved.json")


@pytest.fixture
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture
def resolved():
    return resolve(recipe(), DATA, MODEL, HOST)


def test_the_golden_file_reloads_to_itself(golden):
    """Runs that exist must stay readable, with the same identity; only a new version may change the form."""
    loaded = resolved_from_json(golden)
    assert loaded.to_json() == golden
    assert loaded.identity == golden["identity"]
    assert resolved_from_json(loaded.to_json()) == loaded


def test_the_golden_file_is_what_is_resolved_today(golden, resolved):
    """A rule that is changed on purpose changes this file: write it anew from ``resolved.to_json()``."""
    assert resolved.to_json() == golden


def test_what_a_later_version_adds_is_passed_over(golden):
    later = copy.deepcopy(golden)
    later["portable"]["train.later"] = {"value": 1, "reason": "later"}
    later["host"]["later"] = {"value": 1}
    later["host"]["strategy"]["later"] = 1
    later["later"] = {}
    assert resolved_from_json(later) == resolved_from_json(golden)


@pytest.mark.parametrize(
    ("change", "code", "value"),
    [
        (lambda data: data.update(version=2), "recipe.resolved_version", "version 2, known is 1"),
        (lambda data: data.pop("version"), "recipe.resolved_version", "version None, known is 1"),
        (lambda data: data["portable"].pop("train.seed"), "recipe.resolved_missing", "train.seed"),
        (lambda data: data["host"]["strategy"].pop("value"), "recipe.resolved_missing", "strategy"),
        (
            lambda data: data.pop("host"),
            "recipe.resolved_missing",
            ", ".join(key for key in HOST_KEYS if key not in ("train.devices", "train.nodes", "train.offload")),
        ),
        (
            lambda data: data["portable"]["technique"].update(value={"name": "later"}),
            "recipe.resolved_technique",
            "{'name': 'later'}",
        ),
    ],
)
def test_what_cannot_be_read_is_said(golden, change, code, value):
    change(golden)
    with pytest.raises(RecipeError) as caught:
        resolved_from_json(golden)
    assert (caught.value.code, caught.value.value) == (code, value)


# Another value for each field.
OTHER = {
    "model": "other",
    "task": "qa",
    "objective": Orpo(),
    "technique": Full(),
    "seed": 9,
    "epochs": 9.0,
    "budget_seconds": 9.0,
    "optimizer": "adafactor",
    "learning_rate": 9.0,
    "schedule": "linear",
    "warmup": 0.9,
    "weight_decay": 0.9,
    "clip": None,
    "tokens_per_step": 9,
    "sampler": "grouped",
    "max_length": 9,
    "neftune_alpha": 9.0,
    "patience": 9,
    "on_non_finite": "skip",
    "metrics": ("other",),
    "samples": 9,
    "evaluation_rows": 9,
    "few_shot": 9,
    "max_new_tokens": 9,
    "probe": True,
    "multiple_choice": "other.jsonl",
    "learning_curve": True,
    "strategy": "other",
    "devices": 9,
    "nodes": 3,
    "offload": True,
    "precision": "bfloat16",
    "tokens_per_micro_batch": 9,
    "activation_checkpointing": True,
    "layout": "padded",
    "share_prefix": False,
    "checkpoint_every_steps": 999,
    "keep_checkpoints": 9,
    "validate_every_steps": 9,
}


@pytest.mark.parametrize("key", KEYS)
def test_the_identity_changes_with_portable_values_only(resolved, key):
    other = replace(resolved, **{KEYS[key]: OTHER[KEYS[key]]})
    assert other != resolved
    assert (other.identity != resolved.identity) == (key in PORTABLE)
    assert resolved_from_json(json.loads(json.dumps(other.to_json()))) == other


def test_a_run_that_began_before_rows_could_be_grouped_is_read(resolved):
    data = resolved.to_json()
    del data["portable"]["train.sampler"]
    assert resolved_from_json(data).sampler == "random"


def test_the_identity_does_not_depend_on_reasons_or_on_the_machine(resolved):
    assert replace(resolved, reasons={}).identity == resolved.identity
    elsewhere = replace(HOST, cores=64, fast_dtype="bfloat16", memory_bytes=2**31)
    assert resolve(recipe(), DATA, MODEL, elsewhere).identity == resolved.identity


def test_an_explanation_has_every_key(resolved):
    rows = explain(resolved)
    assert [key for key, _, _ in rows] == list(KEYS)
    assert ("train.epochs", 3.0, "auto: the usual 3") in rows
