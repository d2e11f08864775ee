from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import MemoryRows, TinyRun, counting_rows, packed_model, train_tiny

from tunesmith.data.types import TokenRow
from tunesmith.engine import step as step_module
from tunesmith.engine import train as loop
from tunesmith.engine.settings import ValidationLoss
from tunesmith.errors import CheckpointError, ModelError, OutputError, ResourceError, TrainingError
from tunesmith.objectives.base import LossSum
from tunesmith.objectives.label_loss import LabelLoss
from tunesmith.runs.events import read_events
from tunesmith.techniques.lora import Lora

TECHNIQUE = Lora(rank=4, alpha=8)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    packed_model("llama", folder)
    return folder


def fresh(base: Path) -> Any:
    import transformers

    from tunesmith.models.attention import ATTENTION

    return TECHNIQUE.prepare(transformers.AutoModelForCausalLM.from_pretrained(base, attn_implementation=ATTENTION), 0)


def run(base: Path, folder: Path, **settings: Any) -> TinyRun:
    return train_tiny(fresh(base), TECHNIQUE, folder, **{"rows": counting_rows(24), **settings})


@dataclass
class Bad:
    """The usual objective, whose result is made bad at chosen calls."""

    calls: set[int] | None
    how: str = "loss"
    count: int = 0
    inner: LabelLoss = field(default_factory=LabelLoss)

    def companions(self, rows: Any) -> Any:
        return self.inner.companions(rows)

    def step_sums(self, model: Any, packs: Any, companions: Any) -> tuple[float, ...]:
        return self.inner.step_sums(model, packs, companions)

    def loss(self, model: Any, pack: Any, step_sums: Any) -> LossSum:
        result = self.inner.loss(model, pack, step_sums)
        self.count += 1
        if self.calls is not None and self.count not in self.calls:
            return result
        # An infinite factor that is one in value leaves the loss as it is and spoils the gradient.
        total = result.total * float("nan") if self.how == "loss" else _SpoilGradient.apply(result.total)
        return LossSum(total, result.metrics)


class _SpoilGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("inf")


@pytest.fixture
def objective(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(bad: Any) -> Any:
        monkeypatch.setattr("tiny_training.make_objective", lambda name: bad)
        return bad

    return use


def test_a_step_tells_what_it_did(base: Path, tmp_path: Path) -> None:
    rows = counting_rows(24)
    done = run(base, tmp_path, total_steps=8, rows=rows)
    events = done.of_type("step")
    assert [event.step for event in events] == list(range(1, 9))
    assert set(events[0].data) == {
        "loss",
        "accuracy",
        "learning_rate",
        "gradient_norm",
        "tokens",
        "trained_tokens",
        "seconds",
        "tokens_per_second",
        "memory_bytes",
        "total_steps",
        "eta_seconds",
        "epoch",
    }
    epoch = [event.data for event in events if event.data["epoch"] <= 1.0]
    assert epoch[-1]["epoch"] == 1.0
    assert sum(data["tokens"] for data in epoch) == int(rows.lengths_B.sum())
    assert sum(data["trained_tokens"] for data in epoch) == int(rows.trained_counts_B.sum())
    assert all(0.0 <= event.data["accuracy"] <= 1.0 for event in events)
    assert events[-1].data["eta_seconds"] == 0.0
    assert events[0].data["memory_bytes"] > 50e6
    result = done.result
    assert (result.steps, result.total_steps, result.stopped) == (8, 8, None)
    assert result.tokens == sum(event.data["tokens"] for event in events)
    assert result.seconds >= sum(event.data["seconds"] for event in events)
    assert result.peak_memory_bytes >= events[-1].data["memory_bytes"]


def test_the_loss_is_that_of_the_model_before_the_step(base: Path, tmp_path: Path) -> None:
    from tunesmith.data.packs import lay_out
    from tunesmith.data.steps import plan_steps
    from tunesmith.objectives.label_loss import label_losses

    rows = counting_rows(24)
    done = run(base, tmp_path, total_steps=1, rows=rows)
    first = plan_steps(rows.lengths_B, tokens_per_step=80, seed=0).rows_of(0).tolist()
    (pack,) = lay_out([(row, rows[row]) for row in first], tokens_per_micro_batch=10_000, share_prefix=False)
    assert done.losses[1] == pytest.approx(float(label_losses(fresh(base), pack).mean()), rel=1e-5)


def test_checkpoints_are_saved_rotated_and_told(base: Path, tmp_path: Path) -> None:
    done = run(base, tmp_path, total_steps=5, checkpoint_every_steps=2, keep_checkpoints=2)
    assert [(event.step, event.data) for event in done.of_type("checkpoint")] == [
        (2, {"path": "checkpoints/step-00000002", "kept": ["step-00000002"]}),
        (4, {"path": "checkpoints/step-00000004", "kept": ["step-00000002", "step-00000004"]}),
        (5, {"path": "checkpoints/step-00000005", "kept": ["step-00000004", "step-00000005"]}),
    ]


def test_validation_is_told_and_disturbs_nothing(base: Path, tmp_path: Path) -> None:
    model = fresh(base)
    modes = []

    def validate() -> ValidationLoss:
        modes.append(model.training)
        torch.rand(7)
        return ValidationLoss(2.5, rows=4, tokens=40, accuracy=0.5 if len(modes) == 1 else None)

    settings: dict[str, Any] = {"rows": counting_rows(24), "total_steps": 4}
    done = train_tiny(model, TECHNIQUE, tmp_path / "a", validate=validate, validate_every_steps=2, **settings)
    assert [(event.step, event.data) for event in done.of_type("evaluation")] == [
        (2, {"loss": 2.5, "accuracy": 0.5, "rows": 4, "tokens": 40}),
        (4, {"loss": 2.5, "rows": 4, "tokens": 40}),
    ]
    assert modes == [False, False]
    assert done.losses == run(base, tmp_path / "b", **settings).losses


def test_a_pause_before_the_first_step_can_be_resumed(base: Path, tmp_path: Path) -> None:
    paused = run(base, tmp_path / "a", read_wish=lambda: "pause")
    assert (paused.result.steps, paused.result.stopped) == (0, "pause")
    assert [event.step for event in paused.of_type("checkpoint")] == [0]
    assert run(base, tmp_path / "a").losses == run(base, tmp_path / "b").losses


def test_a_cancelled_training_saves_nothing(base: Path, tmp_path: Path) -> None:
    wishes = iter(["continue", "continue", "cancel"])
    done = run(base, tmp_path, read_wish=wishes.__next__)
    assert (done.result.steps, done.result.stopped) == (2, "cancel")
    assert done.of_type("checkpoint") == []


def test_a_finished_training_is_not_done_again(base: Path, tmp_path: Path) -> None:
    first = run(base, tmp_path)
    again = run(base, tmp_path)
    assert len(again.of_type("step")) == len(first.of_type("step"))
    assert len(again.of_type("checkpoint")) == 1
    assert (again.result.steps, again.result.tokens) == (first.result.steps, first.result.tokens)
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in first.weights.items())


def test_weight_decay_and_clip_reach_the_optimizer(base: Path, tmp_path: Path) -> None:
    plain = run(base, tmp_path / "plain", total_steps=2)
    decayed = run(base, tmp_path / "decay", total_steps=2, weight_decay=5.0)
    unclipped = run(base, tmp_path / "clip", total_steps=2, clip=None)
    assert plain.losses[1] == decayed.losses[1] == unclipped.losses[1]
    name = next(name for name in plain.weights if "lora_A" in name)
    assert float(decayed.weights[name].norm()) < float(plain.weights[name].norm())
    assert not torch.equal(unclipped.weights[name], plain.weights[name])


def test_bfloat16_products_with_single_precision_weights(base: Path, tmp_path: Path) -> None:
    exact, rounded = run(base, tmp_path / "a"), run(base, tmp_path / "b", precision="bfloat16")
    assert rounded.losses != exact.losses
    assert list(rounded.losses.values()) == pytest.approx(list(exact.losses.values()), rel=0.05)
    assert {tensor.dtype for tensor in rounded.weights.values()} == {torch.float32}


# Numbers that are not finite


@pytest.mark.parametrize("how", ["loss", "gradient norm"])
def test_a_step_that_is_not_finite_stops_training(base: Path, tmp_path: Path, objective: Any, how: str) -> None:
    objective(Bad(calls={3}, how=how))
    with pytest.raises(TrainingError) as caught:
        run(base, tmp_path, tokens_per_micro_batch=10_000, checkpoint_every_steps=1)
    assert caught.value.code == "training.not_finite"
    assert f"the {how} of step 3 is not finite" in str(caught.value)
    assert "rows.jsonl:" in str(caught.value.place)
    assert "on_non_finite" in str(caught.value.hint)
    events = list(read_events(tmp_path / "events.jsonl"))
    assert [event.step for event in events if event.type == "step"] == [1, 2]
    # What was good is kept, and training can go on from there once the cause is gone.
    objective(LabelLoss())
    assert list(run(base, tmp_path, tokens_per_micro_batch=10_000).losses) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("how", ["loss", "gradient norm"])
def test_a_skipped_step_changes_nothing(
    base: Path, tmp_path: Path, objective: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    seen: list[tuple[int, bool, bytes]] = []
    take_step = loop.take_step

    def watched(parts: Any, step: int, total_steps: int, rate: float, **how: Any) -> Any:
        outcome = take_step(parts, step, total_steps, rate, **how)
        tensors = list(parts.trained) + [t for p in parts.trained for t in parts.optimizer.state[p].values()]
        seen.append((step, outcome.applied, b"".join(t.detach().numpy().tobytes() for t in tensors)))
        assert all(p.grad is None for p in parts.trained)
        return outcome

    monkeypatch.setattr(loop, "take_step", watched)
    objective(Bad(calls={3, 4}, how=how))
    done = run(base, tmp_path, tokens_per_micro_batch=10_000, on_non_finite="skip")
    assert [applied for _, applied, _ in seen] == [True, True, False, False, True, True]
    assert seen[1][2] == seen[2][2] == seen[3][2] != seen[4][2]
    assert list(done.losses) == [1, 2, 5, 6]
    assert [(event.step, event.data["code"]) for event in done.of_type("warning")] == [
        (3, "training.not_finite"),
        (4, "training.not_finite"),
    ]
    assert done.result.steps == 6


def test_skipping_has_an_end(base: Path, tmp_path: Path, objective: Any) -> None:
    bad = objective(Bad(calls=None))
    with pytest.raises(TrainingError, match="10 steps in a row"):
        run(base, tmp_path, total_steps=50, tokens_per_micro_batch=10_000, on_non_finite="skip")
    assert bad.count == loop.MOST_REFUSED_IN_A_ROW


def test_a_step_without_trained_tokens_is_refused(base: Path, tmp_path: Path) -> None:
    rows = MemoryRows(
        [TokenRow(np.arange(20, 30, dtype=np.int64), np.zeros(10, dtype=np.bool_), f"rows.jsonl:{n}") for n in (1, 2)]
    )
    with pytest.raises(TrainingError, match="no row of this step has a trained token"):
        run(base, tmp_path, rows=rows)


# Memory and models that cannot


def test_running_out_of_memory_names_the_remedy(base: Path, tmp_path: Path, objective: Any) -> None:
    class Huge(LabelLoss):
        def loss(self, model: Any, pack: Any, step_sums: Any) -> LossSum:
            torch.empty(2**60)
            raise AssertionError("that cannot have been allocated")

    objective(Huge())
    with pytest.raises(ResourceError, match="tokens_per_micro_batch"):
        run(base, tmp_path)


def test_other_errors_of_torch_stay_what_they_are(base: Path, tmp_path: Path, objective: Any) -> None:
    class Broken(LabelLoss):
        def loss(self, model: Any, pack: Any, step_sums: Any) -> LossSum:
            raise RuntimeError("a shape does not fit")

    objective(Broken())
    with pytest.raises(RuntimeError, match="a shape does not fit"):
        run(base, tmp_path)


def test_a_model_without_activation_checkpointing_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh(base)
    monkeypatch.setattr(type(model.get_base_model()), "supports_gradient_checkpointing", False)
    with pytest.raises(ModelError, match="activation checkpointing"):
        train_tiny(model, TECHNIQUE, tmp_path, rows=counting_rows(24), activation_checkpointing=True)


# Going on


def paused_run(base: Path, folder: Path) -> None:
    wishes = iter(["continue"] * 4 + ["pause"])
    run(base, folder, read_wish=wishes.__next__, checkpoint_every_steps=2)


def test_a_broken_newest_checkpoint_gives_way_with_a_warning(base: Path, tmp_path: Path) -> None:
    paused_run(base, tmp_path / "a")
    weights = tmp_path / "a" / "checkpoints" / "step-00000004" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    resumed = run(base, tmp_path / "a", checkpoint_every_steps=2)
    (warning,) = resumed.of_type("warning")
    assert warning.data["code"] == "checkpoint.broken"
    assert "step-00000004" in warning.data["message"]
    assert "weights.safetensors" in warning.data["message"]
    assert "step-00000002" in warning.data["message"]
    assert [event.step for event in resumed.of_type("step")] == [1, 2, 3, 4, 3, 4, 5, 6]
    assert resumed.losses == run(base, tmp_path / "b").losses
    assert (tmp_path / "a" / "checkpoints" / "broken-step-00000004").is_dir()


def test_no_whole_checkpoint_is_an_error_and_not_a_fresh_start(base: Path, tmp_path: Path) -> None:
    paused_run(base, tmp_path)
    for path in (tmp_path / "checkpoints").glob("*/state.json"):
        path.unlink()
    with pytest.raises(CheckpointError) as caught:
        run(base, tmp_path)
    assert caught.value.code == "checkpoint.broken"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"learning_rate": 5e-3}, "learning_rate differs: saved 0.01, now 0.005"),
        ({"total_steps": 9}, "total_steps differs"),
        ({"seed": 1}, "seed differs"),
        ({"clip": None}, "clip differs: saved 1.0, now None"),
        ({"rows": counting_rows(24, seed=9)}, "data differs"),
        ({"rows": counting_rows(25)}, "rows differs: saved 24, now 25"),
        ({"tokens_per_step": 60}, "steps_per_epoch differs"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_settings_or_data_are_refused(base: Path, tmp_path: Path, change: dict[str, Any], told: str) -> None:
    paused_run(base, tmp_path)
    with pytest.raises(CheckpointError) as caught:
        run(base, tmp_path, **change)
    assert caught.value.code == "checkpoint.identity"
    assert told in str(caught.value)


def test_one_changed_token_is_noticed(base: Path, tmp_path: Path) -> None:
    paused_run(base, tmp_path)
    rows = counting_rows(24)
    rows.rows[11].token_ids_T[3] += 1
    with pytest.raises(CheckpointError, match="data differs"):
        run(base, tmp_path, rows=rows)


def test_other_trained_weights_are_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paused_run(base, tmp_path)
    monkeypatch.setitem(globals(), "TECHNIQUE", Lora(rank=2))
    with pytest.raises(CheckpointError, match="trained_weights differs"):
        run(base, tmp_path)


def test_layout_memory_and_saving_may_change_between_attempts(base: Path, tmp_path: Path) -> None:
    paused_run(base, tmp_path / "a")
    resumed = run(
        base,
        tmp_path / "a",
        tokens_per_micro_batch=20,
        layout="padded",
        activation_checkpointing=True,
        checkpoint_every_steps=None,
        on_non_finite="skip",
    )
    whole = run(base, tmp_path / "b")
    assert list(resumed.losses.values()) == pytest.approx(list(whole.losses.values()), rel=1e-3)


def test_other_library_versions_are_told(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paused_run(base, tmp_path)
    from tunesmith.engine import resume

    versions = resume.library_versions()
    monkeypatch.setattr(resume, "library_versions", lambda: {**versions, "torch": "9.9"})
    (warning,) = run(base, tmp_path).of_type("warning")
    assert warning.data["code"] == "checkpoint.versions"
    assert f"torch {versions['torch']} -> 9.9" in warning.data["message"]
    assert "numpy" not in warning.data["message"]


# A full disk


@pytest.fixture
def small_files() -> Iterator[Any]:
    """Lets no file grow beyond so many bytes, as a full disk would."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size_bytes: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_last_good_checkpoint(base: Path, tmp_path: Path, small_files: Any) -> None:
    paused_run(base, tmp_path / "a")
    folder = tmp_path / "a" / "checkpoints"
    good = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    optimizer_bytes = max(len(content) for content in good.values())
    small_files(optimizer_bytes - 100)
    with pytest.raises(OutputError) as caught:
        run(base, tmp_path / "a")
    small_files(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert caught.value.code == "output.disk_full"
    assert caught.value.place == str(folder / "step-00000006")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == good
    assert {path.name for path in folder.iterdir()} == {"step-00000002", "step-00000004"}
    resumed = run(base, tmp_path / "a")
    assert resumed.losses == run(base, tmp_path / "b").losses


def test_state_is_readable_without_tunesmith(base: Path, tmp_path: Path) -> None:
    paused_run(base, tmp_path)
    state = json.loads((tmp_path / "checkpoints" / "step-00000004" / "state.json").read_text())
    assert state["cursor"] == {"seed": 0, "step": 4}
    assert state["clock"] == {"total_steps": 6, "since_step": 0, "progress": 0.0}


def test_random_numbers_depend_on_seed_step_and_rank() -> None:
    def draw(*where: int) -> float:
        step_module.seed_step(*where)
        return float(torch.rand(()))

    draws = [draw(0, 0, 0), draw(1, 0, 0), draw(0, 1, 0), draw(0, 0, 1), draw(-1, 0, 0)]
    assert len(set(draws)) == len(draws)
    assert draw(0, 1, 0) == draws[2]
