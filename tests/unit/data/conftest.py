"""Rows, tasks and tokens for the tests of data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from chat_templates import styled_tokenizer

from tunesmith.data.audit import Audit, audit
from tunesmith.data.store import TokenStore
from tunesmith.data.tokenize import tokenize_examples
from tunesmith.formats.inspect import Inspection, inspect_source
from tunesmith.formats.read import read_examples
from tunesmith.tasks import PreparedTask, prepare_task

_OF_AUDIT = ("show", "overlap", "stop_token_ids", "everything")


@pytest.fixture
def inspected(tmp_path: Path) -> Callable[..., Inspection]:
    """Write rows as JSON lines and inspect them."""

    def write(rows: list[Any], name: str = "rows.jsonl") -> Inspection:
        path = tmp_path / name
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        return inspect_source(path)

    return write


def task_of(inspection: Inspection) -> PreparedTask:
    return prepare_task("auto", inspection, [example for _, example in read_examples(inspection)])


@pytest.fixture
def tokenized(inspected: Callable[..., Inspection], tmp_path: Path) -> Callable[..., tuple[TokenStore, Inspection]]:
    """Rows as a token store under one of the test styles."""

    def make(rows: list[Any], style: str = "chatml", **options: Any) -> tuple[TokenStore, Inspection]:
        inspection = inspected(rows, f"rows{len(list(tmp_path.iterdir()))}.jsonl")
        folder = tmp_path / f"store{len(list(tmp_path.iterdir()))}"
        store = tokenize_examples(
            read_examples(inspection),
            task_of(inspection),
            styled_tokenizer(style),
            folder,
            **{"max_length": 512, **options},
        )
        return store, inspection

    return make


@pytest.fixture
def audited(tokenized: Callable[..., tuple[TokenStore, Inspection]]) -> Callable[..., Audit]:
    """The audit of rows; ``audit_style`` is the tokenizer that the audit is given, where it is to be another."""

    def make(rows: list[Any], style: str = "chatml", audit_style: str | None = None, **options: Any) -> Audit:
        of_audit = {name: options.pop(name) for name in _OF_AUDIT if name in options}
        store, inspection = tokenized(rows, style, **options)
        return audit(
            store,
            read_examples(inspection),
            task_of(inspection),
            styled_tokenizer(audit_style or style),
            inspection,
            **of_audit,
        )

    return make
