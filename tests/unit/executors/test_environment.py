from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.executors.environment import ALLOCATOR, compute_environment, core_limit


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("6400000 100000\n", None),
        ("max 100000\n", None),
        ("200000 0\n", None),
        ("", None),
        ("two three\n", None),
    ],
)
def test_the_limit_of_a_control_group_counts_in_whole_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cores: int | None
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    limit, absent = tmp_path / "cpu.max", tmp_path / "absent"
    limit.write_text(text)
    assert core_limit(limit, (absent, absent)) == cores


def test_the_older_form_of_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    quota, period = tmp_path / "quota", tmp_path / "period"
    quota.write_text("300000\n")
    period.write_text("100000\n")
    assert core_limit(tmp_path / "absent", (quota, period)) == 3
    quota.write_text("-1\n")
    assert core_limit(tmp_path / "absent", (quota, period)) is None


def test_what_the_user_said_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.executors.environment.core_limit", lambda: 2)
    assert compute_environment({"PATH": "/bin"}) == {**ALLOCATOR, "OMP_NUM_THREADS": "2", "PATH": "/bin"}
    told = {"OMP_NUM_THREADS": "7", "MALLOC_TOP_PAD_": "1"}
    assert compute_environment(told) == {**ALLOCATOR, **told}
