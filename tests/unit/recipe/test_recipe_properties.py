"""A dump is the same recipe, settings are nested updates, and what is wrong is always said, whatever comes."""

from __future__ import annotations

import copy

import jsonschema
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_cases import PLAIN_RECIPES, problems_of

from tunesmith.errors import RecipeError
from tunesmith.recipe.budget import parse_budget
from tunesmith.recipe.load import apply_overrides, dump_recipe, parse_recipe, recipe_json_schema
from tunesmith.recipe.yaml_text import read_yaml

FEW = settings(max_examples=80)
VALIDATOR = jsonschema.Draft202012Validator(recipe_json_schema())


def error_of(call, kind):
    """The error of this kind that a call raises, or None; any other error is a failure."""
    try:
        call()
    except kind as error:
        return error
    return None


KEYS = st.sampled_from(["train", "epochs", "data", "model", "a", "ä", "no"])
# Values that JSON and the reader's YAML 1.1 write alike: no exponents, no pairs of surrogates.
FLOATS = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
TEXTS = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=8)
PLAIN = st.none() | st.booleans() | st.integers() | FLOATS | TEXTS
TREES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
MAPPINGS = st.dictionaries(KEYS, TREES, max_size=3)


@FEW
@given(PLAIN_RECIPES)
def test_a_dump_is_the_same_recipe_and_fits_the_schema(plain):
    recipe = parse_recipe(plain)
    text = dump_recipe(recipe)
    assert parse_recipe(read_yaml(text, "dump", {})) == recipe
    assert dump_recipe(parse_recipe(read_yaml(text, "dump", {}))) == text
    VALIDATOR.validate(yaml.safe_load(text))
    VALIDATOR.validate(plain)


def updated(mapping, path, value):
    """The plain meaning of a setting: a nested update."""
    head, *rest = path
    inner = mapping.get(head)
    if isinstance(inner, str) and inner != "auto":
        inner = {"name": inner}
    inner = inner if isinstance(inner, dict) else {}
    return {**mapping, head: updated(inner, rest, value) if rest else value}


def reaches_into_a_list(mapping, path):
    for key in path[:-1]:
        mapping = mapping.get(key) if isinstance(mapping, dict) else None
    return isinstance(mapping, list)


@settings(max_examples=150)
@given(MAPPINGS, st.lists(st.tuples(st.lists(KEYS, min_size=1, max_size=3), TREES), max_size=3))
def test_settings_are_nested_updates(mapping, changes):
    before, expected, refused = copy.deepcopy(mapping), mapping, False
    for path, value in changes:
        inside = [path[:size] for size in range(2, len(path) + 1)]
        refused = refused or any(reaches_into_a_list(expected, part) for part in inside)
        expected = expected if refused else updated(expected, path, value)
    written = [f"{'.'.join(path)}={yaml.safe_dump(value, default_flow_style=True)}" for path, value in changes]
    if refused:
        problems = problems_of(lambda: apply_overrides(mapping, written))
        assert {problem.code for problem in problems} == {"recipe.setting"}
    else:
        assert apply_overrides(mapping, written) == expected
    assert mapping == before


@settings(max_examples=200)
@given(MAPPINGS | st.dictionaries(st.sampled_from(["model", "data", "train", "technique", "objective"]), TREES))
def test_what_is_refused_is_always_said_in_one_line_each(plain):
    error = error_of(lambda: parse_recipe(plain), RecipeError)
    for problem in error.problems if error else []:
        assert problem.code in {"recipe.unknown_key", "recipe.missing_key", "recipe.bad_value"}
        assert problem.place
        assert "\n" not in "".join(problem.lines())
    assert error is None or error.problems


@FEW
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    error = error_of(lambda: read_yaml(text, "r.yaml", {}), RecipeError)
    assert error is None or error.place.startswith("r.yaml")


@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_times_add_up(hours, minutes, seconds):
    budget = parse_budget(f"{hours}h{minutes}m{seconds}s")
    assert (budget.seconds, budget.tokens) == (3600 * hours + 60 * minutes + seconds, None)


@given(st.integers(1, 10**6), st.sampled_from([("", 1), ("k", 1000), ("K", 1000), ("m", 10**6), ("M", 10**6)]))
def test_tokens_are_counted(number, unit):
    assert parse_budget(f"{number}{unit[0]} tokens").tokens == number * unit[1]


@given(st.text(max_size=20))
def test_any_text_is_a_budget_or_no_budget(text):
    error = error_of(lambda: parse_budget(text), ValueError)
    assert error is None or "10m" in str(error)
