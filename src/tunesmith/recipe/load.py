"""Read, change, check and write recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tunesmith.errors import Problem, RecipeError
from tunesmith.recipe.objectives import Sft
from tunesmith.recipe.parts import variant_names
from tunesmith.recipe.problems import list_problems, models_in
from tunesmith.recipe.schema import Recipe
from tunesmith.recipe.techniques import Lora
from tunesmith.recipe.yaml_text import Lines, read_value, read_yaml

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_LINE_ENDS = "\x85\u2028\u2029"


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        RecipeError: The file is missing, is no YAML mapping, or has unknown keys or wrong values; all are named.
    """
    lines: Lines = {}
    return parse_recipe(read_mapping(path, lines), str(path), lines)


def read_mapping(path: Path, lines: Lines | None = None) -> Mapping[str, Any]:
    """The plain content of a recipe file; ``lines`` is filled with the line of each dotted key.

    Raises:
        RecipeError: The file is missing, is not UTF-8, or is no YAML mapping.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise RecipeError("there is no such recipe file", code="recipe.missing", place=str(path)) from None
    except UnicodeDecodeError:
        raise RecipeError("the recipe is not UTF-8 text", code="recipe.encoding", place=str(path)) from None
    except OSError as error:
        raise RecipeError(
            "the recipe cannot be read", code="recipe.unreadable", place=str(path), value=error.strerror
        ) from error
    return read_yaml(text, str(path), {} if lines is None else lines)


def parse_recipe(mapping: Mapping[str, Any], place: str = "recipe", lines: Lines | None = None) -> Recipe:
    """Check a recipe's plain content.

    Args:
        mapping: Keys and values, as in YAML.
        place: Where it comes from, for messages.
        lines: The line of each dotted key, where known.

    Raises:
        RecipeError: With one problem for each unknown key (``recipe.unknown_key``, with the nearest known one), missing
            key (``recipe.missing_key``) and wrong value (``recipe.bad_value``).
    """
    try:
        return Recipe.model_validate(mapping)
    except ValidationError as error:
        problems = list_problems(error, mapping, lines or {})
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise RecipeError(f"the recipe has {count}", place=place, problems=problems)


def apply_overrides(mapping: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A recipe's plain content with ``key=value`` settings worked in; keys are dotted, values are YAML.

    A setting below a bare name opens it: ``technique.rank=8`` over ``technique: lora`` keeps the name. Of two settings
    of one key the later wins.

    Raises:
        RecipeError: A setting is not key=value, its value is no YAML, or it reaches into a list.
    """
    result = dict(_copied(mapping))
    problems: list[Problem] = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        path = [part.strip() for part in key.split(".")]
        if not equals or not all(path):
            problems.append(Problem("recipe.setting", "a setting is key=value", value=setting))
            continue
        try:
            _set(result, path, read_value(text, key))
        except RecipeError as error:
            problems.append(Problem("recipe.setting", error.message, place=key, value=error.value, hint=error.hint))
    if problems:
        raise RecipeError("some settings cannot be read", problems=problems)
    return result


def dump_recipe(recipe: Recipe, *, defaults: bool = False) -> str:
    """The recipe as YAML, as it was given or with every default too; reading it gives the same recipe."""
    plain = recipe.model_dump(mode="json", exclude_unset=not defaults)
    text: str = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def recipe_json_schema() -> dict[str, Any]:
    """The JSON schema of recipes, for editors and other tools."""
    schema = Recipe.model_json_schema()
    for key in ("technique", "objective", "executor"):
        bare = {
            "enum": [name for model in models_in(Recipe.model_fields[key].annotation) for name in variant_names(model)],
            "description": "A bare name stands for the variant with its defaults.",
        }
        wanted = schema["properties"][key]
        described = {word: wanted.pop(word) for word in ("description", "default", "title") if word in wanted}
        schema["properties"][key] = {**described, "anyOf": [bare, wanted]}
        # A variant without a name is the default one; see the validators.
        for model in models_in(Recipe.model_fields[key].annotation):
            if model not in (Lora, Sft):
                schema["$defs"][model.__name__]["required"] = ["name"]
    return {"$schema": SCHEMA_DIALECT, **schema, "title": "Tunesmith recipe"}


class _Dumper(yaml.SafeDumper):
    """Quotes texts with line ends of Unicode: unquoted, a reader would take them for spaces."""


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if any(mark in text for mark in _LINE_ENDS) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text_node)


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value


def _set(target: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for number, key in enumerate(keys[:-1], start=1):
        inner = target.get(key)
        if isinstance(inner, list):
            whole = ".".join(keys[:number])
            raise RecipeError("a setting cannot reach into a list", value=whole, hint=f"set all of it: {whole}=[...]")
        if isinstance(inner, str) and inner != "auto":
            inner = {"name": inner}
        target[key] = inner if isinstance(inner, dict) else {}
        target = target[key]
    target[keys[-1]] = value
