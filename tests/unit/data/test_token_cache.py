"""The cache of token stores stays within its size and never takes away what somebody works with."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tunesmith.data.render import Note
from tunesmith.data.store import TokenStore, new_store, open_token_store
from tunesmith.data.token_cache import SIZE_VARIABLE, USED, cached_token_store, most_bytes, prune
from tunesmith.errors import UsageError
from tunesmith.formats.examples import Place

ROWS = 200
Take = Callable[[str], TokenStore]


@pytest.fixture
def take(tmp_path: Path) -> Take:
    """A store out of the cache, 1,000 tokens a row; each was last used a minute after the one taken before it."""
    times: list[int] = []

    def write(folder: Path) -> TokenStore:
        with new_store(folder, {}) as writer:
            for line in range(ROWS):
                writer.add(np.arange(1000), np.ones(1000, dtype=bool), Place("a", line), Note(0))
        return open_token_store(folder)

    def one(key: str) -> TokenStore:
        store = cached_token_store(tmp_path, key, write)
        times.append(len(times))
        os.utime(tmp_path / key / USED, (1e9 + 60 * len(times),) * 2)
        return store

    return one


def keys(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="locks of the file system are those of POSIX")
def test_the_least_recently_used_store_goes_first_and_one_in_use_stays(
    take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = take("first")
    for key in ("second", "third"):
        take(key)
    take("second")
    gc.collect()
    size = sum(path.stat().st_size for path in (tmp_path / "first").iterdir())
    monkeypatch.setenv(SIZE_VARIABLE, str(2.5 * size / 1e9))
    newest = take("fourth")
    assert keys(tmp_path) == ["first", "fourth"]
    assert used[ROWS - 1].token_ids_T.tolist() == list(range(1000))
    # Even where two stores in use are too many.
    assert prune(tmp_path, 0) == []
    del used, newest
    gc.collect()
    assert prune(tmp_path, size) == ["first"]


@pytest.mark.skipif(os.name != "posix", reason="locks of the file system are those of POSIX")
def test_a_store_that_another_process_works_with_stays(take: Take, tmp_path: Path) -> None:
    take("shared")
    program = (
        "import sys\nfrom pathlib import Path\nfrom tunesmith.data.token_cache import cached_token_store\n"
        f"store = cached_token_store(Path({str(tmp_path)!r}), 'shared', None)\n"
        "print(len(store), flush=True)\nsys.stdin.read()\n"
    )
    gc.collect()
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == f"{ROWS}\n"
        assert prune(tmp_path, 0) == []
        other.communicate("")
    assert prune(tmp_path, 0) == ["shared"]


def test_what_killed_processes_left_half_written_goes_when_it_is_old(take: Take, tmp_path: Path) -> None:
    for name in (".old.scratch-1", ".new.scratch-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token_ids").write_bytes(b"1234")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(tmp_path / ".old.scratch-1" / "token_ids", (long_ago, long_ago))
    os.utime(tmp_path / ".old.scratch-1", (long_ago, long_ago))
    take("whole")
    assert keys(tmp_path) == [".new.scratch-2", "whole"]


@pytest.mark.parametrize("text", ["many", "-1", "nan", "inf", ""])
def test_a_size_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIZE_VARIABLE, text)
    with pytest.raises(UsageError) as caught:
        most_bytes()
    assert (caught.value.code, caught.value.place) == ("usage.variable", SIZE_VARIABLE)


def test_the_size_is_in_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SIZE_VARIABLE, raising=False)
    assert most_bytes() == 5_000_000_000
    monkeypatch.setenv(SIZE_VARIABLE, "0.5")
    assert most_bytes() == 500_000_000
