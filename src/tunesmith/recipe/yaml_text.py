"""YAML of recipes: a safe reader that refuses repeated keys and aliases, and remembers lines."""

from __future__ import annotations

from typing import Any

import yaml

from tunesmith.errors import RecipeError

Lines = dict[str, int]


class _RefusedError(Exception):
    """Something that YAML allows and a recipe does not."""

    def __init__(self, code: str, message: str, line: int, value: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.line = line
        self.value = value


def read_yaml(text: str, place: str, lines: Lines) -> dict[str, Any]:
    """Read a mapping; ``lines`` is filled with the line of each dotted key.

    Raises:
        RecipeError: ``recipe.yaml`` (no YAML), ``recipe.repeated_key``, ``recipe.alias`` (aliases can blow a small file
            up to a huge one), ``recipe.empty`` or ``recipe.not_mapping``.
    """
    value = read_value(text, place, lines)
    if value is None:
        raise RecipeError(
            "the recipe is empty", code="recipe.empty", place=place, hint="it needs at least model and data.train"
        )
    if not isinstance(value, dict):
        raise RecipeError("a recipe is a mapping of keys to values", code="recipe.not_mapping", place=place)
    return value


def read_value(text: str, place: str, lines: Lines | None = None) -> Any:
    """Read any value as strictly as a recipe; None where there is none.

    Raises:
        RecipeError: ``recipe.yaml``, ``recipe.repeated_key`` or ``recipe.alias``.
    """
    try:
        # Only plain data: a SafeLoader knows no tags that run code.
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _note(node, "", {} if lines is None else lines, set())
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except _RefusedError as refused:
        raise RecipeError(
            refused.message, code=refused.code, place=f"{place}, line {refused.line}", value=refused.value
        ) from None
    except RecursionError:
        raise RecipeError("this is nested too deeply", code="recipe.yaml", place=place) from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        at = place if mark is None else f"{place}, line {mark.line + 1}"
        said = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise RecipeError("this is no YAML", code="recipe.yaml", place=at, value=said) from error


def _note(node: yaml.Node, prefix: str, lines: Lines, met: set[int]) -> None:
    """Remember lines, and refuse what a reader could misunderstand."""
    if id(node) in met:
        line = node.start_mark.line + 1
        raise _RefusedError("recipe.alias", "a recipe has no aliases", line, prefix.rstrip("."))
    met.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            lines[f"{prefix}{number}"] = item.start_mark.line + 1
            _note(item, f"{prefix}{number}.", lines, met)
    if not isinstance(node, yaml.MappingNode):
        return
    here: set[str] = set()
    for key, value in node.value:
        line, name = key.start_mark.line + 1, str(key.value)
        if key.tag == "tag:yaml.org,2002:merge":
            raise _RefusedError("recipe.alias", "a recipe has no merged keys", line, f"{prefix}{name}")
        if name in here:
            raise _RefusedError("recipe.repeated_key", "a key is written twice", line, f"{prefix}{name}")
        here.add(name)
        lines[f"{prefix}{name}"] = line
        _note(value, f"{prefix}{name}.", lines, met)
