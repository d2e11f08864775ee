"""What every technique must do. A technique that is missing from the suite fails it."""

from __future__ import annotations

import copy
import itertools
import typing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
import transformers
from technique_cases import QUIET, SUITE, Case, load_base
from tiny_models import FAMILIES
from tiny_training import counting_rows, packed_model, train_tiny

from tunesmith.data.packs import lay_out
from tunesmith.errors import CheckpointError, ModelError, RecipeError
from tunesmith.models.forward import label_logits
from tunesmith.models.quantized import dequantize
from tunesmith.recipe import techniques as variants
from tunesmith.techniques.peft_methods import METHODS, NOT_OFFERED
from tunesmith.techniques.table import TECHNIQUES, make_technique

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]

(PACK,) = lay_out([(0, counting_rows(1)[0])], tokens_per_micro_batch=100)


FEW_STEPS = 20
PROMPTS = {"prompt_tuning", "p_tuning", "prefix_tuning"}
WINDOWED = {"mistral", "gemma2", "gemma3_text"}
CASES = [
    pytest.param(name, family, id=f"{name}-{family}", marks=() if family in SUITE[name].families else pytest.mark.slow)
    for name, family in itertools.product(SUITE, FAMILIES)
]


@dataclass(frozen=True)
class Trained:
    """A model before and after a short training."""

    case: Case
    technique: Any
    model: Any
    base: Path
    before: dict[str, torch.Tensor]
    losses: list[float]


@pytest.fixture(scope="module", params=[pytest.param(case.values, id=case.id, marks=case.marks) for case in CASES])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    name, family = request.param
    folder = tmp_path_factory.mktemp(f"{name}-{family}")
    technique = make_technique(SUITE[name].spec)
    packed_model(family, folder / "base")
    model = technique.prepare(load_base(technique, folder / "base"), seed=0)
    before = {key: value.detach().clone() for key, value in model.state_dict().items()}
    run = train_tiny(
        model,
        technique,
        folder / "run",
        rows=counting_rows(24),
        total_steps=steps_for(name, family),
        learning_rate=SUITE[name].learning_rate,
    )
    return Trained(SUITE[name], technique, model, folder / "base", before, list(run.losses.values()))


def steps_for(name: str, family: str) -> int:
    """Rates suit the families of the fast tier; the others get more steps, most of them where windows hide a prompt."""
    if family in SUITE[name].families:
        return FEW_STEPS
    return (24 if name in PROMPTS and family in WINDOWED else 4) * FEW_STEPS


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return label_logits(model.eval(), PACK)


def test_every_technique_is_in_the_suite_and_in_the_recipe() -> None:
    assert {case.spec.name for case in SUITE.values()} == TECHNIQUES.keys()
    specs = [spec for spec in typing.get_args(variants.TechniqueSpec) if spec is not variants.PeftMethod]
    named = {spec.model_fields["name"].default for spec in specs}
    assert named | set(variants.PEFT_METHODS) == TECHNIQUES.keys()


def test_every_method_of_the_library_is_offered_or_has_a_reason_why_not() -> None:
    assert METHODS.keys() == set(variants.PEFT_METHODS)
    assert not METHODS.keys() & NOT_OFFERED.keys()
    assert {kind.value.lower() for kind in peft.PeftType} == {"lora", *METHODS, *NOT_OFFERED}


def test_an_unknown_technique_is_refused() -> None:
    with pytest.raises(RecipeError, match="lora, dora") as caught:
        make_technique(SimpleNamespace(name="lorra"))
    assert caught.value.code == "recipe.technique"


def test_the_loss_falls(trained: Trained) -> None:
    assert sum(trained.losses[-3:]) < 0.9 * sum(trained.losses[:3])


def test_only_what_should_change_changes(trained: Trained) -> None:
    trains = trained.technique.trainable_state(trained.model)
    assert trains
    changed = {
        name for name, value in trained.model.state_dict().items() if not torch.equal(value, trained.before[name])
    }
    # Tied weights have two names and are one weight.
    pointers = {tensor.data_ptr() for tensor in trains.values()}
    expected = {name for name, value in trained.model.state_dict().items() if value.data_ptr() in pointers}
    assert changed <= expected
    allowed = trained.case.may_stay
    assert all(allowed is not None and allowed in name for name in expected - changed)


def test_groups_hold_every_trained_weight_once_and_spare_vectors_the_decay(trained: Trained) -> None:
    groups = trained.technique.parameter_groups(trained.model, weight_decay=0.1)
    grouped = [(parameter, group["weight_decay"]) for group in groups for parameter in group["params"]]
    assert sorted(id(parameter) for parameter, _ in grouped) == sorted(
        id(parameter) for parameter in trained.model.parameters() if parameter.requires_grad
    )
    assert all(decay == (0.1 if parameter.ndim >= 2 else 0.0) for parameter, decay in grouped)


def test_what_is_saved_loads_with_equal_logits(trained: Trained, tmp_path: Path) -> None:
    trained.technique.save(trained.model, tmp_path, base_model="a-base-model")
    loaded = trained.case.load(trained.technique, trained.base, tmp_path)
    assert torch.equal(logits(loaded), logits(trained.model))
    assert not any(path.suffix in {".bin", ".pt", ".pkl"} for path in tmp_path.iterdir())
    assert (tmp_path / "adapter_config.json").exists() == (trained.technique.artifact == "adapter")


def test_trained_weights_go_out_and_in_again(trained: Trained, tmp_path: Path) -> None:
    state = {name: value.clone() for name, value in trained.technique.trainable_state(trained.model).items()}
    fresh = trained.technique.prepare(load_base(trained.technique, trained.base), seed=1)
    assert not torch.equal(logits(fresh), logits(trained.model))
    trained.technique.load_trainable_state(fresh, state)
    assert torch.equal(logits(fresh), logits(trained.model))


def test_weights_of_another_model_are_refused(trained: Trained, tmp_path: Path) -> None:
    state = dict(trained.technique.trainable_state(trained.model))
    name, tensor = next(iter(state.items()))
    untouched = tensor.clone()
    for broken in (
        {key: value for key, value in state.items() if key != name},
        {**state, "surplus": tensor},
        {**state, name: torch.zeros(3)},
    ):
        with pytest.raises(CheckpointError) as caught:
            trained.technique.load_trainable_state(trained.model, broken)
        assert caught.value.problems[0].place in {name, "surplus"}
    assert torch.equal(trained.technique.trainable_state(trained.model)[name], untouched)


def test_merged_equals_unmerged_and_leaves_the_model_alone(trained: Trained) -> None:
    if not trained.case.merges:
        with pytest.raises(ModelError, match="cannot be merged"):
            trained.technique.merge(trained.model)
        return
    # In double precision, so that what is compared is the merge and not how large weights round in single.
    # Products of eight bits round what goes into them too; a merged model has the very weights, and rounds nothing.
    model = copy.deepcopy(trained.model)
    if trained.technique.quantization is None and not trained.case.is_single:
        model = model.double()
    in_int8 = getattr(trained.technique.quantization, "kind", None) == "int8"
    expected = logits(dequantize(copy.deepcopy(model)) if in_int8 else model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    merged = trained.technique.merge(model)
    assert isinstance(merged, transformers.PreTrainedModel)
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-4)
    with torch.no_grad():
        for parameter in merged.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_new_weights_depend_on_the_seed_alone(trained: Trained) -> None:
    def fresh(seed: int) -> dict[str, torch.Tensor]:
        model = trained.technique.prepare(load_base(trained.technique, trained.base), seed)
        return dict(trained.technique.trainable_state(model))

    torch.manual_seed(1)
    drawn = torch.get_rng_state()
    one = fresh(5)
    assert torch.equal(torch.get_rng_state(), drawn)
    torch.manual_seed(2)
    again = fresh(5)
    assert all(torch.equal(one[name], again[name]) for name in one)
    if trained.case.is_drawn:
        other = fresh(6)
        assert any(not torch.equal(one[name], other[name]) for name in one)


def test_trained_weights_are_single_precision_in_a_half_precision_model(trained: Trained) -> None:
    model = load_base(trained.technique, trained.base, torch.bfloat16)
    state = trained.technique.trainable_state(trained.technique.prepare(model, seed=0))
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


@pytest.mark.parametrize(("name", "family"), CASES)
def test_resume_is_exact(tmp_path: Path, name: str, family: str) -> None:
    technique = make_technique(SUITE[name].spec)
    packed_model(family, tmp_path / "base")

    def attempt(folder: str, wishes: Any = None) -> Any:
        model = technique.prepare(load_base(technique, tmp_path / "base"), seed=0)
        read_wish = wishes.__next__ if wishes else lambda: "continue"
        return train_tiny(
            model, technique, tmp_path / folder, rows=counting_rows(24), total_steps=4, read_wish=read_wish
        )

    whole = attempt("whole")
    attempt("parts", iter(["continue", "continue", "pause"]))
    parts = attempt("parts")
    assert parts.losses == whole.losses
    assert all(torch.equal(parts.weights[key], value) for key, value in whole.weights.items())
