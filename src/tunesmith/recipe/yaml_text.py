"""YAML of recipes: a safe reader that refuses repeated keys and aliases, and remembers lines."""

from __future__ import annotations

from typing import Any

import yaml

from tunesmith.errors import RecipeError

Lines = dict[str, int]


class _RefusedError(Exception):
    """Something that YAML allows and a recipe does not."""

    def __init__(self, message: str, line: int, value: str) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.value = value


def read_yaml(text: str, place: str, lines: Lines) -> dict[str, Any]:
    """Read a mapping; ``lines`` is filled with the line of each dotted key.

    Raises:
        RecipeError: ``recipe.yaml`` (no YAML), ``recipe.repeated_key``, ``recipe.alias`` (aliases can blow a small file
            up to a huge one), ``recipe.empty`` or ``recipe.not_mapping``.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is not None:
            _note(node, "", lines, set())
        value = None if node is None else loader.construct_document(node)
    except _RefusedError as refused:
        code = "recipe.alias" if "alias" in refused.message else "recipe.repeated_key"
        raise RecipeError(
            refused.message, code=code, place=f"{place}, line {refused.line}", value=refused.value
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        at = place if mark is None else f"{place}, line {mark.line + 1}"
        raise RecipeError(
            "the recipe is no YAML", code="recipe.yaml", place=at, value=getattr(error, "problem", None) or str(error)
        ) from error
    finally:
        loader.dispose()
    if value is None:
        raise RecipeError(
            "the recipe is empty", code="recipe.empty", place=place, hint="it needs at least model and data.train"
        )
    if not isinstance(value, dict):
        raise RecipeError("a recipe is a mapping of keys to values", code="recipe.not_mapping", place=place)
    return value


def _note(node: yaml.Node, prefix: str, lines: Lines, met: set[int]) -> None:
    if id(node) in met:
        raise _RefusedError("a recipe has no aliases", node.start_mark.line + 1, prefix.rstrip("."))
    met.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _note(item, f"{prefix}{number}.", lines, met)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        line = key.start_mark.line + 1
        dotted = f"{prefix}{key.value}"
        if dotted in lines:
            raise _RefusedError("a key is written twice", line, dotted)
        lines[dotted] = line
        _note(value, f"{dotted}.", lines, met)
