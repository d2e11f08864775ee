from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_training import TinyRun, counting_rows, packed_model, train_tiny

from tunesmith.engine import train as loop
from tunesmith.engine.deadline import Deadline
from tunesmith.engine.settings import ValidationLoss
from tunesmith.techniques.lora import Lora


class FakeTime:
    """A clock that moves by what the work is said to take."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """Every step takes as many seconds as the list ``seconds`` says, the last entry over and over."""
    clock = FakeTime()
    clock.seconds = [1.0]  # type: ignore[attr-defined]

    take_step, run_pack = loop.take_step, loop.run_pack

    def slow_step(parts: Any, step: int, total_steps: int, rate: float, **how: Any) -> Any:
        clock.time += clock.seconds[min(step, len(clock.seconds) - 1)]  # type: ignore[attr-defined]
        return take_step(parts, step, total_steps, rate, **how)

    def slow_pack(parts: Any, pack: Any, known: Any, *, last: bool) -> Any:
        clock.time += clock.seconds[0] * pack.tokens / 80  # type: ignore[attr-defined]
        return run_pack(parts, pack, known, last=last)

    monkeypatch.setattr(loop, "take_step", slow_step)
    monkeypatch.setattr(loop, "run_pack", slow_pack)
    return clock


def run(folder: Path, clock: Any, **settings: Any) -> TinyRun:
    technique = Lora(rank=2)
    model = technique.prepare(packed_model("llama", folder / "model"), seed=0)
    values = {"total_steps": 200, "learning_rate": 1e-3, **settings}
    return train_tiny(model, technique, folder / "run", rows=counting_rows(24), now=clock, **values)


def rates(run: TinyRun) -> list[float]:
    return [event.data["learning_rate"] for event in run.of_type("step")]


def test_training_ends_within_its_time_with_the_schedule_done(tmp_path: Path, fake_time: FakeTime) -> None:
    started = fake_time()
    done = run(tmp_path, fake_time, deadline_seconds=50.0)
    assert 42.0 < fake_time() - started < 50.0
    assert done.result.steps == done.result.total_steps == len(done.losses)
    assert done.result.stopped is None
    assert rates(done)[-1] < 0.05 * max(rates(done))
    warnings = [event.data["code"] for event in done.of_type("warning")]
    assert warnings == ["training.deadline"]
    assert "of 200 steps" in done.of_type("warning")[0].data["message"]


def test_steps_that_get_slower_and_faster_again(tmp_path: Path, fake_time: FakeTime) -> None:
    fake_time.seconds = [1.0] * 10 + [3.0] * 10 + [0.5]  # type: ignore[attr-defined]
    started = fake_time()
    done = run(tmp_path, fake_time, deadline_seconds=80.0, warmup=0.05)
    assert 60.0 < fake_time() - started < 80.0
    peak = rates(done).index(max(rates(done)))
    assert all(
        later <= earlier + 1e-12 for earlier, later in zip(rates(done)[peak:], rates(done)[peak + 1 :], strict=False)
    )
    assert rates(done)[-1] < 0.1 * max(rates(done))


def test_enough_time_changes_nothing(tmp_path: Path, fake_time: FakeTime) -> None:
    with_deadline = run(tmp_path / "a", fake_time, deadline_seconds=1e6, total_steps=5)
    without = run(tmp_path / "b", fake_time, total_steps=5)
    assert with_deadline.losses == without.losses
    assert with_deadline.of_type("warning") == []


def test_validation_counts_in_the_time(tmp_path: Path, fake_time: FakeTime) -> None:
    def validate() -> ValidationLoss:
        fake_time.time += 5.0
        return ValidationLoss(1.0, 2, 3)

    started = fake_time()
    done = run(tmp_path, fake_time, deadline_seconds=60.0, validate=validate, validate_every_steps=5)
    assert 48.0 < fake_time() - started < 60.0
    assert len(done.of_type("evaluation")) >= 3


def test_time_is_counted_over_attempts(tmp_path: Path, fake_time: FakeTime) -> None:
    wishes = iter(["continue"] * 20 + ["pause"])
    first = run(tmp_path, fake_time, deadline_seconds=50.0, read_wish=wishes.__next__)
    assert first.result.stopped == "pause"
    fake_time.time += 1e6
    started = fake_time()
    second = run(tmp_path, fake_time, deadline_seconds=50.0)
    assert 20.0 < fake_time() - started < 30.0
    assert second.result.seconds < 50.0
    assert rates(second)[20] <= rates(second)[19]
    assert rates(second)[-1] < 0.05 * max(rates(second))


def test_a_deadline_shorter_than_a_step_allows_one(tmp_path: Path, fake_time: FakeTime) -> None:
    fake_time.seconds = [100.0]  # type: ignore[attr-defined]
    done = run(tmp_path, fake_time, deadline_seconds=5.0)
    assert done.result.steps == 1


def test_a_trial_that_takes_long_is_not_repeated(tmp_path: Path, fake_time: FakeTime, monkeypatch) -> None:
    from tunesmith.engine import train as loop

    tried: list[int] = []
    real = loop.run_pack

    def slow(parts: Any, pack: Any, known: Any, *, last: bool) -> Any:
        tried.append(pack.tokens)
        fake_time.time += 10.0
        return real(parts, pack, known, last=last)

    monkeypatch.setattr(loop, "run_pack", slow)
    run(tmp_path / "a", fake_time, deadline_seconds=60.0)
    assert len(tried) == 1
    tried.clear()
    run(tmp_path / "b", fake_time, deadline_seconds=1e6, total_steps=2)
    assert len(tried) == 2


def test_the_probe_leaves_no_trace(tmp_path: Path) -> None:
    import time

    probed = run(tmp_path / "a", time.monotonic, deadline_seconds=1e6, total_steps=3)
    plain = run(tmp_path / "b", time.monotonic, total_steps=3)
    assert probed.losses == plain.losses
    assert all((probed.weights[name] == plain.weights[name]).all() for name in plain.weights)


def test_a_hiccup_is_not_taken_for_the_rule() -> None:
    deadline = Deadline(1000.0, checkpoint_seconds=1.0)
    for seconds in [9.0, *[1.0] * 20, 60.0]:
        deadline.note_step(seconds)
    assert deadline.seconds_per_step == pytest.approx(1.1, abs=0.02)


def test_the_first_step_counts_only_while_there_is_nothing_else() -> None:
    deadline = Deadline(100.0, checkpoint_seconds=0.0)
    assert deadline.seconds_per_step is None
    assert deadline.total_steps(0, 0.0, 10, 10) == 10
    deadline.note_step(20.0)
    assert deadline.total_steps(1, 20.0, 50, 50) == 1 + 3
    deadline.note_step(1.0)
    # Much time is left after all: later again, but never beyond what was asked for.
    assert deadline.total_steps(2, 21.0, 4, 50) == 50


def test_time_for_the_last_checkpoint_is_set_aside() -> None:
    deadline = Deadline(100.0, checkpoint_seconds=27.0)
    deadline.note_probe(1.0)
    assert deadline.total_steps(0, 0.0, 500, 500) == 70
    deadline.note_checkpoint(47.0)
    assert deadline.total_steps(0, 47.0, 70, 500) < 50
