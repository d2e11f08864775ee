"""Calls of functions against expected ones, as the Berkeley Function Calling Leaderboard matches them.

A call is right if its name is, each of its arguments has an accepted value, and no argument is missing that may not
be left out. Several calls may stand in any order. Where no call is expected, an answer without one is right.
Source of the rules: Patil et al. 2025, "The Berkeley Function Calling Leaderboard", the AST evaluation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.errors import UsageError
from tunesmith.evaluation.metrics.types import Rows, check_rows, mean_rows
from tunesmith.tasks.found_calls import FoundCall, parse_calls

# The leaderboard compares texts without these.
_UNHEARD = re.compile(r"[ ,./\-_*^()]")


def matches(found: FoundCall, expected: Mapping[str, Any]) -> bool:
    """Whether a call is an expected one; a dot in a name may be an underscore, as some templates allow no dots."""
    accepted: Mapping[str, Sequence[Any]] = expected["arguments"]
    if found.name.replace(".", "_") != str(expected["name"]).replace(".", "_"):
        return False
    for name, value in found.arguments.items():
        written = [value, found.texts[name]] if name in found.texts else [value]
        if name not in accepted or not any(_accepts(accepted[name], one) for one in written):
            return False
    return all(name in found.arguments or _may_lack(values) for name, values in accepted.items())


def _may_lack(accepted: Sequence[Any]) -> bool:
    return any(isinstance(value, str) and value == "" for value in accepted)


def _accepts(accepted: Sequence[Any], value: Any) -> bool:
    return any(_equal(one, value) for one in accepted)


def _equal(accepted: Any, value: Any) -> bool:
    """Whether a value is the accepted one; fields of accepted objects hold lists of accepted values."""
    if isinstance(accepted, bool) or isinstance(value, bool):
        return accepted is value
    if isinstance(accepted, str) and isinstance(value, str):
        return _heard(accepted) == _heard(value)
    if isinstance(accepted, Mapping) and isinstance(value, Mapping):
        fields = {key: values if isinstance(values, list | tuple) else (values,) for key, values in accepted.items()}
        return all(key in fields and _accepts(fields[key], item) for key, item in value.items()) and all(
            key in value or _may_lack(values) for key, values in fields.items()
        )
    if isinstance(accepted, list | tuple) and isinstance(value, list | tuple):
        return len(accepted) == len(value) and all(map(_equal, accepted, value))
    return type(accepted) is not str and type(value) is not str and bool(accepted == value)


def _heard(text: str) -> str:
    return _UNHEARD.sub("", text).lower().replace("'", '"')


def all_match(found: Sequence[FoundCall], expected: Sequence[Mapping[str, Any]]) -> bool:
    """Whether each call found is one expected and each expected one is found, whatever their order."""
    if len(found) != len(expected):
        return False
    # Which call takes which expectation: augmenting paths, since one call may match several expectations.
    taken: dict[int, int] = {}

    def place(call: int, tried: set[int]) -> bool:
        for at, one in enumerate(expected):
            if at not in tried and matches(found[call], one):
                tried.add(at)
                if at not in taken or place(taken[at], tried):
                    taken[at] = call
                    return True
        return False

    return all(place(call, set()) for call in range(len(found)))


def _expected(reference: Any) -> Sequence[Mapping[str, Any]]:
    if isinstance(reference, list | tuple) and all(
        isinstance(call, Mapping) and isinstance(call.get("name"), str) and isinstance(call.get("arguments"), Mapping)
        for call in reference
    ):
        return reference
    raise UsageError(
        "a reference is not a list of expected calls", code="metrics.reference", value=repr(reference)[:80]
    )


def calls_match_rows(predictions: Sequence[str], references: Sequence[Any]) -> Rows:
    """Whether each answer holds exactly the expected calls."""
    check_rows(predictions, references)
    return mean_rows(
        [
            float(bool(answer.strip()) and all_match(parse_calls(answer), _expected(reference)))
            for answer, reference in zip(predictions, references, strict=True)
        ]
    )


def call_names_rows(predictions: Sequence[str], references: Sequence[Any]) -> Rows:
    """Whether each answer calls exactly the expected functions, whatever the arguments."""
    check_rows(predictions, references)
    scores = []
    for answer, reference in zip(predictions, references, strict=True):
        found = Counter(call.name.replace(".", "_") for call in parse_calls(answer))
        wanted = Counter(call["name"].replace(".", "_") for call in _expected(reference))
        scores.append(float(bool(answer.strip()) and found == wanted))
    return mean_rows(scores)


def call_details(predictions: Sequence[str], references: Sequence[Any]) -> dict[str, Any]:
    """How often is called where it should be, where it should not, and not at all; with the rows right of each kind."""
    check_rows(predictions, references)
    kinds: dict[str, list[float]] = {}
    for answer, reference in zip(predictions, references, strict=True):
        expected = _expected(reference)
        kind = ("no call", "one call")[len(expected)] if len(expected) < 2 else "several calls"
        right = bool(answer.strip()) and all_match(parse_calls(answer), expected)
        kinds.setdefault(kind, []).append(float(right))
    return {
        "per_kind": [
            {"kind": kind, "accuracy": sum(right) / len(right), "rows": len(right)}
            for kind, right in sorted(kinds.items())
        ]
    }
