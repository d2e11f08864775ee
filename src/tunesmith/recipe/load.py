"""Read, change, check and write recipes."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tunesmith.errors import Problem, RecipeError
from tunesmith.recipe.schema import Recipe
from tunesmith.recipe.yaml_text import Lines, read_yaml

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


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
        problems = list(_problems(error, mapping, lines or {}))
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise RecipeError(f"the recipe has {count}", place=place, problems=problems)


def apply_overrides(mapping: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A recipe's plain content with ``key=value`` settings worked in; keys are dotted, values are YAML.

    A setting below a bare name opens it: ``technique.rank=8`` over ``technique: lora`` keeps the name.

    Raises:
        RecipeError: A setting is not key=value, or its value is no YAML.
    """
    result = dict(_copied(mapping))
    problems: list[Problem] = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not all(key.split(".")):
            problems.append(Problem("recipe.setting", "a setting is key=value", value=setting))
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            problems.append(Problem("recipe.setting", "the value is no YAML", place=key, value=text))
            continue
        _set(result, key.split("."), value)
    if problems:
        raise RecipeError("some settings cannot be read", problems=problems)
    return result


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every value; reading it gives the same recipe."""
    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    return text


def recipe_json_schema() -> dict[str, Any]:
    """The JSON schema of recipes, for editors and other tools."""
    schema = Recipe.model_json_schema()
    for key in ("technique", "objective"):
        bare = {
            "enum": [model.model_fields["name"].default for model in _models_in(Recipe.model_fields[key].annotation)],
            "description": "A bare name stands for the variant with its defaults.",
        }
        wanted = schema["properties"][key]
        described = {word: wanted.pop(word) for word in ("description", "default", "title") if word in wanted}
        schema["properties"][key] = {**described, "anyOf": [bare, wanted]}
    return {"$schema": SCHEMA_DIALECT, **schema, "title": "Tunesmith recipe"}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value


def _set(target: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = target.get(key)
        if isinstance(inner, str) and inner != "auto":
            inner = {"name": inner}
        target[key] = inner if isinstance(inner, dict) else {}
        target = target[key]
    target[keys[-1]] = value


def _problems(error: ValidationError, mapping: Mapping[str, Any], lines: Lines) -> Iterator[Problem]:
    yield from _unknown_keys(mapping, Recipe, "", lines)
    said: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    for wrong in error.errors(include_url=False):
        if wrong["type"] == "extra_forbidden":
            continue
        key = _dotted(wrong["loc"], mapping, missing=wrong["type"] == "missing")
        if wrong["type"] == "missing":
            yield Problem("recipe.missing_key", "is missing", place=_place(key, lines))
        elif wrong["type"] == "union_tag_invalid":
            allowed = [name.strip(" '") for name in wrong["ctx"]["expected_tags"].split(",")]
            tag = str(wrong["ctx"]["tag"])
            yield Problem("recipe.bad_value", "no such variant", _place(key, lines), tag, _nearest(tag, allowed))
        else:
            said.setdefault(key, []).append(wrong["msg"].removeprefix("Value error, ").removeprefix("Input "))
            values[key] = wrong["input"]
    for key, messages in said.items():
        # One line for each member of a union that the value could have been.
        message = "; or ".join(dict.fromkeys(messages))
        yield Problem("recipe.bad_value", message, place=_place(key, lines), value=_shown(values[key]))


def _unknown_keys(value: Any, model: type[BaseModel], prefix: str, lines: Lines) -> Iterator[Problem]:
    if not isinstance(value, Mapping):
        return
    for key, inner in value.items():
        dotted = f"{prefix}{key}"
        field = model.model_fields.get(str(key))
        if field is None:
            hint = _nearest(str(key), list(model.model_fields))
            yield Problem("recipe.unknown_key", "unknown key", place=_place(dotted, lines), hint=hint)
            continue
        members = list(_models_in(field.annotation))
        for number, item in enumerate(inner if isinstance(inner, list | tuple) else [inner]):
            place = f"{dotted}.{number}." if isinstance(inner, list | tuple) else f"{dotted}."
            chosen = _member(members, item)
            if chosen is not None:
                yield from _unknown_keys(item, chosen, place, lines)


def _member(members: Sequence[type[BaseModel]], value: Any) -> type[BaseModel] | None:
    """The model that a value should fit: the only one there is, or the variant that it names."""
    if len(members) == 1:
        return members[0]
    name = value.get("name") if isinstance(value, Mapping) else None
    return next((member for member in members if member.model_fields["name"].default == name), None)


def _dotted(location: tuple[int | str, ...], mapping: Mapping[str, Any], *, missing: bool) -> str:
    """The key that pydantic's location means; the names of union members that it also holds are left out."""
    path: list[str] = []
    value: Any = mapping
    for number, part in enumerate(location):
        in_mapping = isinstance(value, Mapping) and part in value
        if in_mapping or (isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)):
            value = value[part]
        elif not (missing and number == len(location) - 1):
            continue
        path.append(str(part))
    return ".".join(path)


def _place(key: str, lines: Lines) -> str:
    return f"{key} (line {lines[key]})" if key in lines else key


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"it is one of {', '.join(known)}"


def _shown(value: Any) -> str | None:
    if isinstance(value, BaseModel | Mapping | list | tuple):
        return None
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
