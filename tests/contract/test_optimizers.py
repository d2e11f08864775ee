"""What every optimizer must do. One that is missing from the suite fails it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import counting_rows, packed_model, train_tiny

from tunesmith.engine.optimizers import OPTIMIZERS, make_optimizer
from tunesmith.errors import RecipeError, UsageError
from tunesmith.techniques.lora import Lora

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    # bitsandbytes says that pages are whole without a GPU; a recipe that asks for them there is refused.
    pytest.mark.filterwarnings("ignore:.*[pP]aged.*:UserWarning"),
]

# A rate that suits each.
RATES = {
    "adamw": 1e-2,
    "adamw_8bit": 1e-2,
    "paged_adamw_8bit": 1e-2,
    "lion_8bit": 2e-3,
    "adafactor": 1e-2,
    "schedule_free_adamw": 3e-2,
}
TECHNIQUE = Lora(rank=64)


def attempt(name: str, folder: Path, part: str, wishes: Any = None, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = TECHNIQUE.prepare(packed_model("llama", folder / "base"), seed=0)
    return train_tiny(
        model,
        TECHNIQUE,
        folder / part,
        rows=counting_rows(24),
        read_wish=wishes.__next__ if wishes else lambda: "continue",
        **{"optimizer": name, "learning_rate": RATES[name], "total_steps": 12, "schedule": "constant", **settings},
    )


def test_every_optimizer_is_in_the_suite() -> None:
    assert RATES.keys() == OPTIMIZERS.keys()
    with pytest.raises(RecipeError, match="adamw_8bit"):
        make_optimizer("adamv", [], 1e-3)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "schedulefree", None)
    with pytest.raises(UsageError, match="schedulefree") as caught:
        make_optimizer("schedule_free_adamw", [{"params": [torch.nn.Parameter(torch.zeros(2))]}], 1e-3)
    assert "tunesmith[optimizers]" in (caught.value.hint or "")


@pytest.mark.parametrize("name", RATES)
def test_the_loss_falls_and_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path, name: str) -> None:
    whole = attempt(name, tmp_path, "whole")
    losses = list(whole.losses.values())
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    attempt(name, tmp_path, "parts", iter([*["continue"] * 5, "pause"]))
    parts = attempt(name, tmp_path, "parts")
    assert parts.losses == whole.losses
    assert all(torch.equal(parts.weights[key], value) for key, value in whole.weights.items())


def test_moments_in_eight_bits_take_a_quarter_of_the_room(tmp_path: Path) -> None:
    sizes = {}
    for name in ("adamw", "adamw_8bit"):
        weights = [torch.nn.Parameter(torch.randn(256, 256))]
        optimizer = make_optimizer(name, [{"params": weights}], 1e-3)
        weights[0].grad = torch.randn(256, 256)
        optimizer.step()
        sizes[name] = sum(value.nbytes for value in optimizer.state[weights[0]].values() if torch.is_tensor(value))
    assert sizes["adamw_8bit"] < 0.3 * sizes["adamw"]


@pytest.mark.parametrize("name", RATES)
def test_looking_at_the_result_changes_nothing(tmp_path: Path, name: str) -> None:
    from tunesmith.engine.settings import ValidationLoss

    plain = attempt(name, tmp_path, "plain", total_steps=6)
    watched = attempt(
        name, tmp_path, "watched", total_steps=6, validate=lambda: ValidationLoss(1.0, 1, 1), validate_every_steps=1
    )
    assert watched.losses == plain.losses
    assert all(torch.equal(watched.weights[key], value) for key, value in plain.weights.items())


def test_validation_and_the_result_use_averaged_weights(tmp_path: Path) -> None:
    """Schedule-Free trains other weights than those that it promises: the result must be the same either way."""
    name = "schedule_free_adamw"
    plain = attempt(name, tmp_path, "plain")
    seen: list[torch.Tensor] = []
    model = TECHNIQUE.prepare(packed_model("llama", tmp_path / "base"), seed=0)

    def validate() -> Any:
        from tunesmith.engine.settings import ValidationLoss

        first = next(iter(TECHNIQUE.trainable_state(model).values()))
        seen.append(first.clone())
        return ValidationLoss(1.0, 1, 1)

    watched = train_tiny(
        model,
        TECHNIQUE,
        tmp_path / "watched",
        rows=counting_rows(24),
        validate=validate,
        validate_every_steps=12,
        optimizer=name,
        learning_rate=RATES[name],
        total_steps=12,
        schedule="constant",
    )
    key = next(iter(plain.weights))
    torch.testing.assert_close(seen[0], watched.weights[key])
    torch.testing.assert_close(plain.weights[key], watched.weights[key])
