"""docs/guide/recipe.md from the recipe's JSON schema: every key with what it takes, its default and its meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

HEAD = """\
# Recipe reference

<!-- Written by scripts/make_docs.py; do not edit by hand. -->

Every key but `model` and `data.train` may be left out. `auto` is resolved from data, model and machine, and shown
with its reason. Unknown keys are errors. On the command line each is `key=value`, such as `train.epochs=2`.
"""
_WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}
_WORDS |= {"array": "a list", "object": "a map"}

Schema = Mapping[str, Any]


def recipe_page(schema: Schema, defaults: Mapping[str, Any]) -> str:
    """The page as Markdown; ``defaults`` is the dump of a recipe that says only what it must."""
    lines = [HEAD, "| key | takes | default | |", "|---|---|---|---|"]
    lines += [
        f"| `{key}` | {takes} | {default} | {meaning} |"
        for key, takes, default, meaning in _rows(schema, "", defaults, schema["$defs"])
    ]
    return "\n".join(lines) + "\n"


def _rows(part: Schema, path: str, defaults: Mapping[str, Any], definitions: Schema) -> Iterator[tuple[str, ...]]:
    for name, value in part["properties"].items():
        key = f"{path}{name}"
        branches = list(_branches(value, definitions))
        variants = [branch for branch in branches if "properties" in branch]
        default = defaults.get(name, value.get("default"))
        if len(branches) == 1 and variants:
            yield from _rows(variants[0], f"{key}.", default or {}, definitions)
            continue
        takes = ", ".join(dict.fromkeys(_words(branch) for branch in branches if branch not in variants))
        shown = "required" if name in part.get("required", ()) else _shown(default)
        yield key, takes, shown, value.get("description", "")
        for variant in variants:
            yield from _variant_rows(variant, key, definitions)


def _variant_rows(variant: Schema, key: str, definitions: Schema) -> Iterator[tuple[str, ...]]:
    """The keys that one of several variants has besides its name."""
    own = {name: value for name, value in variant["properties"].items() if name != "name"}
    word = variant["properties"].get("name", {}).get("const", "each")
    for inner, takes, shown, meaning in _rows({**variant, "properties": own}, f"{key}.", {}, definitions):
        yield inner, takes, shown, f"{word}: {meaning}"


def _branches(value: Schema, definitions: Schema) -> Iterator[Schema]:
    """What a value may be, one by one."""
    if "$ref" in value:
        yield from _branches(definitions[value["$ref"].rpartition("/")[2]], definitions)
    elif "anyOf" in value or "oneOf" in value:
        for branch in value.get("anyOf") or value["oneOf"]:
            yield from _branches(branch, definitions)
    else:
        yield value
        if value.get("type") == "array" and "$ref" in value["items"]:
            yield from _branches(value["items"], definitions)


def _shown(default: Any) -> str:
    if isinstance(default, Mapping):
        default = default.get("name", default)
    return f"`{json.dumps(default).strip(chr(34))}`"


def _words(branch: Schema) -> str:
    """What a value may be, in words."""
    if "const" in branch or "enum" in branch:
        return ", ".join(f"`{item}`" for item in branch.get("enum") or [branch["const"]])
    return _WORDS[branch["type"]]
