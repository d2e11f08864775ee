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
    """The recipe with every resolved value in its place; what this machine's probes chose stands in a part of its own.

    The text is YAML, comments included; the part of the machine is a comment as a whole, for a recipe has no such keys.
    """
    portable: Mapping[str, Any] = resolved.get("portable") or {}
    values = {**dict(_flat(recipe)), **{key: item.get("value") for key, item in portable.items()}}
    values = {key: value for key, value in values.items() if not _covered(key, values)}
    lines = list(_lines(values, {key: str(item.get("reason", "")) for key, item in portable.items()}))
    host: Mapping[str, Any] = resolved.get("host") or {}
    if host:
        lines.append("# chosen for this machine")
        lines += [
            f"#   {key}: {_scalar(item.get('value'))} ({clean(str(item.get('reason', '')))})"
            for key, item in host.items()
        ]
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
    """Whether a plain value such as ``task: auto`` was replaced by values below its key."""
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
