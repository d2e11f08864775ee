"""A training whose held-out loss no longer falls ends, with the weights of its best validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import TinyRun, counting_rows, packed_model, train_tiny

from tunesmith.engine.patience import Best, judge
from tunesmith.engine.settings import ValidationLoss
from tunesmith.techniques.lora import Lora

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

# The loss of each validation, one a step: the best is that of step 3.
LOSSES = [5.0, 4.0, 3.0, 3.5, float("nan"), 3.2, 1.0, 1.0]
TECHNIQUE = Lora(rank=4)


def attempt(folder: Path, part: str, wishes: Any = None, **settings: Any) -> tuple[TinyRun, dict[int, Any]]:
    model = TECHNIQUE.prepare(packed_model("llama", folder / "base"), seed=0)
    seen: dict[int, Any] = {}
    run: list[int] = [len(list((folder / part).glob("validated-*")))]

    def validate() -> ValidationLoss:
        at = run[0]
        run[0] += 1
        (folder / part / f"validated-{at}").touch()
        seen[at + 1] = {name: value.clone() for name, value in TECHNIQUE.trainable_state(model).items()}
        return ValidationLoss(LOSSES[at], 1, 1)

    (folder / part).mkdir(exist_ok=True)
    done = train_tiny(
        model,
        TECHNIQUE,
        folder / part,
        rows=counting_rows(24),
        validate=validate,
        read_wish=wishes.__next__ if wishes else lambda: "continue",
        **{"total_steps": 8, "validate_every_steps": 1, "patience": 3, "keep_checkpoints": 1, **settings},
    )
    return done, seen


def test_the_best_of_validations_is_kept_in_mind() -> None:
    best = None
    for step, loss in enumerate(LOSSES[:6], start=1):
        best = judge(best, loss, step)
    assert best == Best(3.0, 3, 3, last_step=6)
    assert best.is_over(3)
    assert not best.is_over(4)
    assert not best.is_over(None)


def test_training_ends_with_the_weights_of_the_best_validation(tmp_path: Path) -> None:
    done, seen = attempt(tmp_path, "run")
    assert (done.result.steps, done.result.best_step, done.result.stopped) == (6, 3, None)
    assert all(torch.equal(done.weights[name], value) for name, value in seen[3].items())
    (said,) = done.of_type("warning")
    assert said.data["code"] == "training.patience"
    assert "step 3" in said.data["message"]
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-00000003", "step-00000006"]


def test_a_first_validation_that_is_not_a_number_does_not_stay_the_best() -> None:
    assert judge(judge(None, float("nan"), 1), 9.0, 2) == Best(9.0, 2, 0, last_step=2)


def test_a_training_that_patience_ended_is_not_gone_on_with(tmp_path: Path) -> None:
    first, _ = attempt(tmp_path, "run")
    again, seen = attempt(tmp_path, "run")
    assert seen == {}
    assert (again.result.steps, again.result.best_step) == (first.result.steps, first.result.best_step) == (6, 3)
    assert len(again.of_type("step")) == len(first.of_type("step"))
    assert all(torch.equal(again.weights[name], value) for name, value in first.weights.items())


def test_the_last_steps_are_validated_too(tmp_path: Path) -> None:
    """Validations at steps 3 and 6 would leave out the two last of 8 steps."""
    done, _ = attempt(tmp_path, "run", validate_every_steps=3)
    assert [event.step for event in done.of_type("evaluation")] == [3, 6, 8]
    assert (done.result.steps, done.result.best_step) == (8, 8)


def test_without_patience_nothing_ends_early(tmp_path: Path) -> None:
    done, seen = attempt(tmp_path, "run", patience=None)
    assert (done.result.steps, done.result.best_step) == (8, None)
    assert all(torch.equal(done.weights[name], value) for name, value in seen[8].items())


@pytest.mark.parametrize("paused_after", [2, 4, 5])
def test_a_resumed_training_waits_as_long_as_an_uninterrupted_one(tmp_path: Path, paused_after: int) -> None:
    whole, _ = attempt(tmp_path, "whole")
    attempt(tmp_path, "parts", iter([*["continue"] * paused_after, "pause"]))
    parts, _ = attempt(tmp_path, "parts")
    assert (parts.result.steps, parts.result.best_step) == (whole.result.steps, whole.result.best_step)
    assert all(torch.equal(parts.weights[name], value) for name, value in whole.weights.items())
