"""What is wrong with a recipe's values, in words: keys with their lines, what they take, and the nearest known name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tunesmith.errors import Problem
from tunesmith.recipe.parts import variant_names
from tunesmith.recipe.schema import Recipe
from tunesmith.recipe.yaml_text import Lines

# Type of pydantic's error: what the value has to be.
_WANTED: Mapping[str, str] = {
    "literal_error": "{expected}",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_from_float": "a whole number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_unicode": "Unicode text",
    "string_too_short": "text that is not empty",
    "string_too_long": "text of at most {max_length} characters",
    "string_pattern_mismatch": "text of the form {pattern}",
    "tuple_type": "a list",
    "too_short": "a list that is not empty",
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "model_attributes_type": "a name or a mapping of keys",
}


def list_problems(error: ValidationError, mapping: Mapping[str, Any], lines: Lines) -> list[Problem]:
    """All that is wrong, in the order of the lines; what has no line comes last.

    Args:
        error: What pydantic found.
        mapping: The recipe's plain content.
        lines: The line of each dotted key, where known.
    """
    found = [*_unknown_keys(mapping, Recipe, ""), *_wrong_values(error, mapping)]
    found.sort(key=lambda item: lines.get(item[0], float("inf")))
    return [
        Problem(
            one.code, one.message, f"{key} (line {lines[key]})" if key in lines else key or None, one.value, one.hint
        )
        for key, one in found
    ]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The parts of a recipe that a value of this type may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def _wrong_values(error: ValidationError, mapping: Mapping[str, Any]) -> Iterator[tuple[str, Problem]]:
    errors: dict[str, list[ErrorDetails]] = {}
    for wrong in error.errors(include_url=False):
        key = _dotted(wrong["loc"], mapping, missing=wrong["type"] == "missing")
        errors.setdefault(key, []).append(wrong)
    for key, group in errors.items():
        # A value that fits one member of a union but for something inside: the other members are not what was meant.
        if any(other.startswith(f"{key}.") for other in errors):
            continue
        problem = _problem([wrong for wrong in group if wrong["type"] not in ("extra_forbidden", "invalid_key")])
        if problem is not None:
            yield key, problem


def _problem(errors: Sequence[ErrorDetails]) -> Problem | None:
    """One problem for one key: an error for each member of a union that its value could have been."""
    if not errors:
        return None
    first = errors[0]
    if first["type"] == "missing":
        return Problem("recipe.missing_key", "is missing")
    tagged = next((wrong for wrong in errors if wrong["type"] == "union_tag_invalid"), None)
    if tagged is not None:
        names = [name.strip(" '") for name in tagged["ctx"]["expected_tags"].split(",")]
        tag = str(tagged["ctx"]["tag"])
        return Problem("recipe.bad_value", "no such variant", value=tag, hint=_nearest(tag, names))
    if first["type"] == "value_error":
        return Problem("recipe.bad_value", str(first["ctx"]["error"]), value=_shown(first["input"]))
    # A bare name was opened into a mapping for some members; the others saw it as it stands.
    shown = next((text for text in (_shown(wrong["input"]) for wrong in errors) if text), None)
    wanted = [_wanted(wrong) for wrong in errors]
    message = f"must be {' or '.join(dict.fromkeys(wanted))}"
    return Problem("recipe.bad_value", message, value=shown)


def _wanted(wrong: ErrorDetails) -> str:
    # A message of the library is no template: it may hold braces.
    known = _WANTED.get(wrong["type"])
    return wrong["msg"] if known is None else known.format_map(wrong.get("ctx", {}))


def _unknown_keys(value: Any, model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Problem]]:
    if not isinstance(value, Mapping):
        return
    for key, inner in value.items():
        dotted = f"{prefix}{key}"
        field = model.model_fields.get(key) if isinstance(key, str) else None
        if field is None:
            yield dotted, Problem("recipe.unknown_key", "unknown key", hint=_nearest_key(str(key), model, prefix[:-1]))
            continue
        members = list(models_in(field.annotation))
        for number, item in enumerate(inner if isinstance(inner, list | tuple) else [inner]):
            place = f"{dotted}.{number}." if isinstance(inner, list | tuple) else f"{dotted}."
            chosen = _member(members, item)
            if chosen is not None:
                yield from _unknown_keys(item, chosen, place)


def _member(members: Sequence[type[BaseModel]], value: Any) -> type[BaseModel] | None:
    """The part that a value should be: the variant that it names, or the first."""
    if len(members) < 2 or not isinstance(value, Mapping) or "name" not in value:
        return members[0] if members else None
    return next((member for member in members if value["name"] in variant_names(member)), None)


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


def _nearest_key(name: str, model: type[BaseModel], parent: str) -> str:
    """Where a key belongs that stands at the wrong place, or what it may have been meant to be."""
    leaf = name.rpartition(".")[2]
    for place, owner in _all_parts(Recipe, ""):
        if leaf not in owner.model_fields or leaf == "name" or not f"{place}.{leaf}".endswith(name):
            continue
        if place == parent:
            return f"only {variant_names(owner)[0]} has {leaf}"
        return f"{leaf} belongs below {place}" if place else f"{leaf} belongs at the top"
    return _nearest(name, list(model.model_fields))


def _all_parts(model: type[BaseModel], place: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield place, model
    for key, field in model.model_fields.items():
        for member in models_in(field.annotation):
            yield from _all_parts(member, f"{place}.{key}" if place else key)


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"it is one of {', '.join(known)}"


def _shown(value: Any) -> str | None:
    """The value as the recipe would write it."""
    if isinstance(value, BaseModel | Mapping | list | tuple):
        return None
    named = {None: "null", True: "true", False: "false"}
    text = named[value] if value is None or isinstance(value, bool) else repr(value)
    if hasattr(value, "isoformat"):
        text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
