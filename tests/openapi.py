"""Requests and answers checked against OpenAI's own description of its service.

contract = load_contract()                     # skips, loudly, where the schemas are not
operation = contract.find("POST", "/fine_tuning/jobs")
contract.problems_of(operation.answer, value)  # in words; none where it fits
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jsonschema
import pytest
import yaml

_FILE = "openai.openai-openapi.openapi.subset.yaml"
_ROOT = Path(__file__).resolve().parents[1]
# Azure adds these to every path.
_ADDED_PARAMETERS = frozenset({"api-version"})


@dataclass(frozen=True)
class Operation:
    """One method of one path: schemas of its request and answer, and its parameters by name."""

    path: str
    request: Any
    answer: Any
    parameters: dict[str, Any]


class Contract:
    """The description, ready for checks: requests must have no unknown fields."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._paths = document["paths"]
        schemas = document["components"]["schemas"]
        self._loose = {"components": {"schemas": _plain(schemas, strict=False)}}
        self._strict = {"components": {"schemas": _plain(schemas, strict=True)}}

    def operations(self) -> set[tuple[str, str]]:
        """Every method of every path."""
        methods = {"get", "post", "put", "patch", "delete"}
        return {(method.upper(), path) for path, found in self._paths.items() for method in found if method in methods}

    def find(self, method: str, path: str) -> Operation | None:
        """The operation of a path without the query; None where the contract has none."""
        for template, operations in self._paths.items():
            pattern = re.sub(r"\{[^}]+\}", "[^/]+", template)
            found = operations.get(method.lower())
            if found is not None and re.fullmatch(pattern, path):
                content = found.get("requestBody", {}).get("content", {})
                answers = found["responses"]["200"]["content"]["application/json"]
                parameters = {one["name"]: one for one in found.get("parameters", []) if one["in"] == "query"}
                request = next(iter(content.values()))["schema"] if content else None
                return Operation(template, request, answers["schema"], parameters)
        return None

    def problems_of_request(self, operation: Operation, value: Any) -> list[str]:
        return self._problems(self._strict, _plain(operation.request, strict=True), value)

    def problems_of_answer(self, schema: Any, value: Any) -> list[str]:
        return self._problems(self._loose, _plain(schema, strict=False), value)

    def problems_of_named(self, name: str, value: Any) -> list[str]:
        return self._problems(self._strict, {"$ref": f"#/components/schemas/{name}"}, value)

    def problems_of_query(self, operation: Operation, query: str) -> list[str]:
        found = []
        for name, text in parse_qsl(query, keep_blank_values=True):
            base, *inner = re.findall(r"[^\[\]]+", name)
            parameter = operation.parameters.get(base)
            if parameter is None:
                found += [] if base in _ADDED_PARAMETERS else [f"{operation.path} has no parameter {base}"]
                continue
            schema = _plain(parameter["schema"], strict=False)
            value: Any = {inner[0]: text} if inner else int(text) if text.isdigit() else text
            found += self._problems(self._loose, schema, value)
        return found

    def _problems(self, document: dict[str, Any], schema: Any, value: Any) -> list[str]:
        validator = jsonschema.Draft202012Validator({**document, **schema})
        return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(value)]


def load_contract() -> Contract:
    """The contract from the folder that TUNESMITH_TEST_SCHEMAS names; skips where there is none."""
    folder = Path(os.environ.get("TUNESMITH_TEST_SCHEMAS", _ROOT.parent / "shared" / "schemas"))
    if not (folder / _FILE).is_file():
        pytest.skip(f"no public schemas: set TUNESMITH_TEST_SCHEMAS (looked in {folder})")
    return _read(folder / _FILE)


@cache
def _read(path: Path) -> Contract:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return Contract(yaml.load(path.read_text(encoding="utf-8"), loader))


def _plain(schema: Any, *, strict: bool) -> Any:
    """JSON Schema of 2020 out of what the description writes in the words of older versions."""
    if isinstance(schema, list):
        return [_plain(one, strict=strict) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _plain(value, strict=strict) for key, value in schema.items() if key not in ("nullable", "example")}
    for word, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if found.get(word) is True:
            found[word] = found.pop(limit)
    composed = any(word in found for word in ("allOf", "anyOf", "oneOf"))
    if strict and isinstance(found.get("properties"), dict) and "additionalProperties" not in found and not composed:
        found["additionalProperties"] = False
    return {"anyOf": [found, {"type": "null"}]} if schema.get("nullable") is True else found
