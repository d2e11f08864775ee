"""Records come from other machines: nothing in one leads out of its version."""

from __future__ import annotations

import json

import pytest

from tunesmith.errors import ModelError
from tunesmith.registry.record import Base, Blob, Origin, Record, parse, to_bytes

BLOB = {"sha256": "a" * 64, "size_bytes": 3}


def record(**changes) -> bytes:
    whole = {
        "format": 1,
        "name": "router",
        "version": 3,
        "created": "2026-11-01T00:00:00+00:00",
        "tunesmith": "0.1.0",
        "kind": "adapter",
        "origin": {"kind": "run", "name": "one"},
        "files": {"adapter/adapter_config.json": BLOB},
    }
    return json.dumps({**whole, **changes}).encode()


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "", "a\\b", "C:/x", "~/x", ".ssh/x", "a/\n", "a\0", "x/" * 9],
)
def test_paths_that_lead_elsewhere_are_refused(path):
    with pytest.raises(ModelError) as caught:
        parse(Record, record(files={path: BLOB}), "here")
    assert caught.value.code == "registry.record"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../x"},
        {"version": 0},
        {"files": {"a": {"sha256": "../../x", "size_bytes": 1}}},
        {"files": {"a": {"sha256": "a" * 64, "size_bytes": -1}}},
        {"kind": "program"},
    ],
)
def test_other_values_are_checked_too(changes):
    with pytest.raises(ModelError):
        parse(Record, record(**changes), "here")


def test_a_record_of_a_later_version_says_so():
    with pytest.raises(ModelError, match="upgrade Tunesmith") as caught:
        parse(Record, record(format=2), "here")
    assert caught.value.code == "registry.format"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null"])
def test_what_is_no_record_is_refused(content):
    with pytest.raises(ModelError):
        parse(Record, content, "here")


def test_a_record_reads_back_what_was_written_and_passes_over_later_fields():
    read = parse(Record, record(colour="blue"), "here")
    assert read.address == "router:3"
    assert read.files["adapter/adapter_config.json"] == Blob(**BLOB)
    again = read.model_copy(update={"base": Base(name="b"), "origin": Origin(kind="folder", name="f")})
    assert parse(Record, to_bytes(again), "here") == again
