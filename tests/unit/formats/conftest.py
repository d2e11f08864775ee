"""Helpers of the tests of training files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a file: bytes and text as they are, a list as one JSON line for each item."""

    def write_file(name: str, content: bytes | str | list[object]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = b"".join(orjson.dumps(row) + b"\n" for row in content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file
