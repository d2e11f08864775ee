"""The machine is measured once and the measurement is kept."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
import torch

from tunesmith.models import host
from tunesmith.models.host import memory_bytes, probe_host, race


@pytest.fixture
def kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("psutil.getloadavg", lambda: (0.0, 0.0, 0.0))
    return cache.parent / "host.json"


def test_the_probe_is_true_and_kept(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = probe_host()
    assert facts.cores == torch.get_num_threads()
    assert 0 < facts.memory_bytes <= psutil.virtual_memory().total
    assert facts.device == "cpu"
    # Any machine makes between a tenth of a billion and a hundred million billion operations a second.
    assert facts.matmul_flops_per_second is not None
    assert 1e8 < facts.matmul_flops_per_second < 1e17
    (measured,) = json.loads(kept.read_text()).values()
    assert measured[facts.fast_dtype] == facts.matmul_flops_per_second
    monkeypatch.setattr(host, "race", _fail)
    assert probe_host() == facts


@pytest.mark.parametrize(("bfloat16", "fast"), [(1.0e9, "float32"), (1.2e9, "float32"), (2e9, "bfloat16")])
def test_bfloat16_must_be_clearly_faster(
    kept: Path, monkeypatch: pytest.MonkeyPatch, bfloat16: float, fast: str
) -> None:
    monkeypatch.setattr(host, "race", lambda _: {"float32": 1e9, "bfloat16": bfloat16})
    facts = probe_host()
    assert facts.fast_dtype == fast
    assert facts.matmul_flops_per_second == {"float32": 1e9, "bfloat16": bfloat16}[fast]


def test_a_busy_machine_is_measured_again_next_time(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.getloadavg", lambda: (1000.0, 0.0, 0.0))
    probe_host()
    assert not kept.exists()


def test_a_broken_measurement_is_made_again_and_others_stay(kept: Path) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_text("{broken")
    probe_host()
    (key,) = json.loads(kept.read_text())
    kept.write_text(json.dumps({key: {"float32": "fast"}, "other machine": {"float32": 1.0, "bfloat16": 1.0}}))
    probe_host()
    again = json.loads(kept.read_text())
    assert again["other machine"] == {"float32": 1.0, "bfloat16": 1.0}
    assert again[key]["float32"] > 1e8


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.parent.parent.mkdir(parents=True, exist_ok=True)
    kept.parent.write_text("a file where the folder should be")
    assert probe_host().matmul_flops_per_second


def test_the_limit_of_a_control_group_counts(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    limit = tmp_path / "memory.max"
    for text, expected in (("1073741824\n", 1 << 30), ("max\n", total), (str(1 << 62), total), ("", total)):
        limit.write_text(text)
        assert memory_bytes((str(limit), str(tmp_path / "absent"))) == expected


def test_the_race_measures_both_types() -> None:
    assert set(race("cpu", rounds=1)) == {"float32", "bfloat16"}


def _fail(*_: object) -> dict[str, float]:
    raise AssertionError("measured twice")
