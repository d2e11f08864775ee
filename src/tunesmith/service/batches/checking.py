"""The lines of a batch's file, before the first of them is asked: what is wrong is told with its line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunesmith.wire.batch import BatchRequest

# More are counted and not listed.
MOST_ERRORS = 100
_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Checked:
    """A file of requests: how many, and the one model that they name; or what is wrong, in OpenAI's form."""

    total: int
    model: str | None
    errors: list[dict[str, Any]]


def check_file(path: Path, endpoint: str, most_requests: int) -> Checked:
    """Read the whole file once. Memory is that of the ids, which must differ.

    Args:
        path: The file.
        endpoint: Where every request must go.
        most_requests: How many are taken.
    """
    errors: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    model: str | None = None
    total = 0
    for number, line in _lines(path):
        total += 1
        if total > most_requests:
            errors.append(_error(None, "too_many_requests", f"a batch has at most {most_requests} requests", None))
            break
        found = _wrong(line, number, endpoint, seen, model)
        if isinstance(found, dict):
            errors.append(found)
            continue
        model = model or found
    if total == 0:
        errors.append(_error(None, "empty_file", "the file has no requests", "input_file_id"))
    return Checked(total, model, errors[:MOST_ERRORS])


def _wrong(line: bytes, number: int, endpoint: str, seen: dict[str, int], model: str | None) -> dict[str, Any] | str:
    """What is wrong with a line; the model that it names where nothing is."""
    try:
        request = BatchRequest.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or None
        code = "invalid_json_line" if first["type"] == "json_invalid" else "invalid_request"
        return _error(number, code, first["msg"], field)
    if request.url != endpoint:
        return _error(number, "invalid_url", f"the batch is of {endpoint}, and this line of {request.url}", "url")
    if request.custom_id in seen:
        words = f"custom_id {request.custom_id} is that of line {seen[request.custom_id]} too"
        return _error(number, "duplicate_custom_id", words, "custom_id")
    seen[request.custom_id] = number
    if request.body.get("stream"):
        return _error(number, "invalid_request", "answers of a batch are not streamed", "body.stream")
    named = request.body.get("model")
    if not isinstance(named, str) or not named:
        return _error(number, "missing_required_parameter", "the body names no model", "body.model")
    if model not in (None, named):
        return _error(
            number, "mismatched_model", f"all lines of a batch ask one model; the first ask {model}", "body.model"
        )
    return named


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(_MARK) if number == 1 else line
            if text.strip():
                yield number, text


def _error(line: int | None, code: str, message: str, param: str | None) -> dict[str, Any]:
    return {"code": code, "message": message[:500], "param": param, "line": line}
