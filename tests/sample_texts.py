"""What the tests of bundled samples need: words and runs of words, and their generators under scripts/."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tunesmith.samples import sample_folder

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def sample_text(sample: str, name: str) -> str:
    """A file of a sample, which is plain lines of ASCII."""
    raw = (sample_folder(sample) / name).read_bytes()
    assert raw.endswith(b"}\n")
    assert b"\r" not in raw
    assert b"\n\n" not in raw
    return raw.decode("ascii")


def words(text: str) -> list[str]:
    """The words of a text in lower case; numbers are words."""
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower())


def runs(text: str, size: int) -> list[tuple[str, ...]]:
    """All runs of this many words."""
    found = words(text)
    return [tuple(found[start : start + size]) for start in range(len(found) - size + 1)]


def load_script(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """A script of the repository as a module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module(name)


def run_script(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    """Its exit code."""
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *options])
    code: int = script.main()
    return code


def assert_check_notices_changes(script: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """With ``--check``, a generator fails on missing and changed files and writes nothing."""
    monkeypatch.setattr(script, "FOLDER", folder)
    assert run_script(script, monkeypatch, "--check") == 1
    assert not list(folder.iterdir())
    assert run_script(script, monkeypatch) == 0
    assert run_script(script, monkeypatch, "--check") == 0
    changed = (folder / "heldout.jsonl").read_bytes() + b"{}\n"
    (folder / "heldout.jsonl").write_bytes(changed)
    assert run_script(script, monkeypatch, "--check") == 1
    assert (folder / "heldout.jsonl").read_bytes() == changed
