"""One process prepares a model, the other waits; what a killed one left behind goes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tunesmith.catalog.cache import cache_folder, models_folder, prepared_folder, preparing
from tunesmith.errors import OutputError

HOLDER = """
import sys, time
from tunesmith.catalog.cache import preparing
with preparing("model"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_cache_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "here"))
    assert models_folder() == tmp_path / "here" / "models"
    assert not models_folder().exists(), "looking makes no folder"
    monkeypatch.delenv("TUNESMITH_CACHE")
    assert cache_folder().name == "tunesmith"


def test_a_second_process_waits_and_a_killed_one_lets_go(cache: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with preparing("model"):
            order.append("second")

    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        (cache / ".model.scratch-1234").mkdir()
        (cache / ".other.scratch-1234").mkdir()
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.5)
        order.append("first")
        first.kill()
        thread.join(timeout=10)
    assert order == ["first", "second"]
    assert not (cache / ".model.scratch-1234").exists()
    assert (cache / ".other.scratch-1234").exists(), "another model may be in the making there"


def test_different_models_do_not_wait_for_each_other(cache: Path) -> None:
    with preparing("one"), preparing("other"):
        pass


def test_a_folder_without_weights_is_not_here(cache: Path) -> None:
    folder = cache / "phi-4"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert prepared_folder("phi-4") is None
    (folder / "model.safetensors").write_bytes(b"x")
    assert prepared_folder("phi-4") == folder
    assert prepared_folder("no-such-model") is None


def test_a_cache_that_cannot_be_made_is_a_named_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError), preparing("model"):
        pass
