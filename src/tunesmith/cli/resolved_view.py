"""A resolved recipe as YAML: each value with the reason for it as a comment."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tunesmith.cli.terminal import clean, paint, width

_COMMENT_COLUMN = 40
_MIN_COMMENT = 24


def resolved_yaml(recipe: Mapping[str, Any], resolved: Mapping[str, Any]) -> str:
    """The recipe with every resolved value in its place; the text is a recipe again.

    What this machine's probes chose is marked. What was only derived, and is no key of a recipe, is a comment.
    """
    values = dict(_flat(recipe))
    reasons: dict[str, str] = {}
    derived = []
    for part, mark in (("portable", ""), ("host", "for this machine: ")):
        for key, item in (resolved.get(part) or {}).items():
            value, reason = item.get("value"), str(item.get("reason", ""))
            if isinstance(value, Mapping) or _covered(key, values):
                continue
            if key not in values:
                derived.append(f"# {key}: {_scalar(value)} ({clean(reason)})")
                continue
            # Where nothing is to be done, as for checkpoints of a short run, a recipe can only say auto.
            if value is not None:
                values[key] = value
            reasons[key] = f"{mark}{reason}"
    lines = [*_lines(values, reasons), *derived]
    if resolved.get("identity"):
        lines.append(f"# identity: {resolved['identity']}")
    return "\n".join(lines)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _covered(key: str, values: Mapping[str, Any]) -> bool:
    """Whether there are values below a key."""
    return any(other.startswith(f"{key}.") for other in values)


def _lines(values: Mapping[str, Any], reasons: Mapping[str, str]) -> Iterator[str]:
    open_parts: list[str] = []
    for key in _grouped(values):
        *parents, last = key.split(".")
        shared = 0
        while shared < min(len(parents), len(open_parts)) and parents[shared] == open_parts[shared]:
            shared += 1
        for depth in range(shared, len(parents)):
            yield f"{'  ' * depth}{parents[depth]}:"
        open_parts = parents
        yield from _commented(f"{'  ' * len(parents)}{last}: {_scalar(values[key])}", reasons.get(key, ""))


def _grouped(values: Mapping[str, Any]) -> list[str]:
    """The keys with those of one part side by side, parts in the order in which they first come."""
    order = {name: index for index, name in enumerate(dict.fromkeys(key.split(".")[0] for key in values))}
    return sorted(values, key=lambda key: order[key.split(".")[0]])


def _commented(text: str, reason: str) -> Iterator[str]:
    if not reason:
        yield text
        return
    column = max(_COMMENT_COLUMN, len(text) + 2)
    columns = width(sys.stdout)
    room = None if columns is None else max(_MIN_COMMENT, columns - column - 2)
    pieces = textwrap.wrap(clean(reason), room) if room else [" ".join(clean(reason).split())]
    yield f"{text.ljust(column)}{paint(f'# {pieces[0]}', 'dim', sys.stdout)}"
    for piece in pieces[1:]:
        yield f"{' ' * column}{paint(f'# {piece}', 'dim', sys.stdout)}"


def _scalar(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
