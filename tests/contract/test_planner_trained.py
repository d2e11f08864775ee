"""What plans say of trained parameters, by formula or counted without weights, against prepared models, exactly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from technique_cases import QUIET, SUITE, load_base
from tiny_models import FAMILIES, tiny_causal_model, tiny_encoder_folder

from tunesmith.catalog.entries import catalog_entries
from tunesmith.models.load import LoadPlan, load_model
from tunesmith.pipeline.counting import count_trained
from tunesmith.planner.counted import Question
from tunesmith.planner.method_counts import METHODS
from tunesmith.planner.shape import ModelShape, config_of, shape_of_config, shape_of_entry
from tunesmith.planner.trained import model_parameters, trained_parameters
from tunesmith.recipe import techniques as variants
from tunesmith.techniques import peft_methods
from tunesmith.techniques.table import make_technique

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]

# Counted in the built model: matrices that layers share, and weights that are cut in two.
UNKNOWN = {"lily", "osf"}
# These look at the weights when they begin.
NEED_WEIGHTS = {"adamss", "frod", "shira"}
# Settings that no formula follows, such as those that go layer by layer.
ONE_BY_ONE = {
    "loha on one layer": variants.PeftMethod(name="loha", settings={"layers_to_transform": [1]}),
    "adalora on one layer": variants.PeftMethod(name="adalora", settings={"layers_to_transform": [0], "init_r": 4}),
    "ranks by name": variants.PeftMethod(name="lokr", settings={"rank_pattern": {"o_proj": 2}}),
    "a projected prefix": variants.PeftMethod(name="prefix_tuning", settings={"prefix_projection": True}),
    "named targets": variants.PeftMethod(name="osf", targets=("o_proj",)),
}
# Biases and fused matrices are the slow tier's.
COUNTED_FAMILIES = [
    "llama",
    "qwen3",
    "gemma3_text",
    *(pytest.param(one, marks=pytest.mark.slow) for one in ("qwen2", "phi3")),
]
# Wide enough for what the methods get where the recipe is silent.
WIDE = {"hidden_size": 128, "head_dim": 32, "intermediate_size": 256, "num_hidden_layers": 1}
LOW_RANK = {
    "attention alone": variants.Lora(rank=3, targets="attention"),
    "two names": variants.Dora(rank=3, targets=("o_proj", "mlp.down_proj")),
    "one layer": variants.Lora(rank=3, targets=("model.layers.1.self_attn.o_proj",)),
    "patterns": variants.Lora(rank=3, rank_pattern={"o_proj": 5, "layers.0.self_attn.o_proj": 7, "down_proj": 1}),
    "moved beginning": variants.Lora(rank=3, initialization="pissa"),
}


@dataclass(frozen=True)
class Tiny:
    """A model on disk and what a plan knows of it."""

    folder: Path
    shape: ModelShape


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def make(family: str, *, wide: bool = False) -> Tiny:
        folder = tmp_path_factory.mktemp(f"{family}-{wide}")
        tiny_causal_model(family, folder, **(WIDE if wide else {}))
        return Tiny(folder, shape_of(folder))

    return make


def config_in(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text("utf-8"))


def shape_of(folder: Path) -> ModelShape:
    return shape_of_config(config_in(folder), "tiny")


def trained_in(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def really_trained(spec: Any, folder: Path, new_token_ids: tuple[int, ...] = ()) -> int:
    technique = make_technique(spec)
    return trained_in(technique.prepare(load_base(technique, folder), seed=0, new_token_ids=new_token_ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_has_as_many_parameters_as_its_config_says(family: str, tiny: Any) -> None:
    model = load_model(LoadPlan(tiny(family).folder))
    assert tiny(family).shape.parameters == sum(one.numel() for one in model.parameters())


@pytest.mark.parametrize("family", COUNTED_FAMILIES)
@pytest.mark.parametrize("name", SUITE)
def test_what_is_planned_of_every_technique_is_what_trains(name: str, family: str, tiny: Any) -> None:
    """By its formula, or where there is none counted in the model without weights."""
    spec, model = SUITE[name].spec, tiny(family)
    planned = trained_parameters(model.shape, spec)
    assert (planned is None) == (spec.name in UNKNOWN)
    if planned is None:
        planned = count_trained(Question(config_in(model.folder), spec, "sft", 0)).trained
    assert planned == really_trained(spec, model.folder)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_counts_with_the_settings_that_it_gets_by_itself(name: str, tiny: Any) -> None:
    spec, model = variants.PeftMethod(name=name), tiny("llama", wide=True)
    assert trained_parameters(model.shape, spec) == really_trained(spec, model.folder)


SETTINGS = {
    "more clusters than outputs": variants.PeftMethod(name="adamss", settings={"num_subspaces": 20, "r": 7}),
    "a sparse rotation": variants.PeftMethod(name="frod", settings={"sparse_rate": 0.2}),
    "almost no rotation": variants.PeftMethod(name="frod", settings={"sparse_rate": 1e-5}),
    "no rotation": variants.PeftMethod(name="frod", settings={"sparse_rate": 0.0}),
}


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("spec", SETTINGS.values(), ids=list(SETTINGS))
def test_settings_at_their_bounds_count(spec: Any, family: str, tiny: Any) -> None:
    """Also of matrices with biases."""
    model = tiny(family)
    assert trained_parameters(model.shape, spec) == really_trained(spec, model.folder)


@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize("spec", LOW_RANK.values(), ids=list(LOW_RANK))
def test_targets_and_patterns_count_as_they_are_matched(spec: Any, family: str, tiny: Any) -> None:
    model = tiny(family)
    assert trained_parameters(model.shape, spec) == really_trained(spec, model.folder)


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("spec", [variants.Lora(rank=2), variants.Full()], ids=["lora", "full"])
def test_rows_of_new_tokens_count(spec: Any, family: str, tiny: Any) -> None:
    """With embeddings that are the output matrix, and with two; rows of a full training are there before it."""
    model = tiny(family)
    new = () if spec.name == "full" else (398, 399)
    assert trained_parameters(model.shape, spec, new_tokens=len(new)) == really_trained(spec, model.folder, new)


# What is counted in practice is the fast tier's, and one whose bookkeeping looks like weights.
FAST = {*UNKNOWN, *NEED_WEIGHTS, "adalora"}
BUILT = [
    pytest.param(name, family, marks=() if name in FAST else pytest.mark.slow)
    for name in sorted(METHODS.keys() | UNKNOWN)
    for family in ("llama", "phi3")
]


@pytest.mark.parametrize(("name", "family"), BUILT)
def test_a_model_without_weights_trains_as_many_as_the_real_one(name: str, family: str, tiny: Any) -> None:
    """Also by methods that have a formula: there are settings that it does not follow."""
    spec, model = SUITE[name].spec, tiny(family)
    counted = count_trained(Question(config_in(model.folder), spec, "sft", 0))
    if name in NEED_WEIGHTS:
        assert counted.trained is None
        assert "without the model's weights" in (counted.why or "")
    else:
        assert counted.trained == really_trained(spec, model.folder)


@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize("spec", ONE_BY_ONE.values(), ids=list(ONE_BY_ONE))
def test_what_no_formula_follows_is_counted(spec: Any, family: str, tiny: Any) -> None:
    model = tiny(family)
    assert trained_parameters(model.shape, spec) is None
    counted = count_trained(Question(config_in(model.folder), spec, "sft", 0))
    assert counted.trained == really_trained(spec, model.folder)


# The smallest of each architecture; the others take a while together.
_SMALLEST = {one.architecture: one.id for one in sorted(catalog_entries(), key=lambda one: -one.parameters)}
ENTRIES = [
    pytest.param(one, id=one.id, marks=() if one.id in _SMALLEST.values() else pytest.mark.slow)
    for one in catalog_entries()
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_model_of_the_catalog_is_built_from_its_numbers(entry: Any) -> None:
    """All of them, whatever their size, so that what is counted in them are the shapes of the real ones."""
    shape = shape_of_entry(entry)
    if shape.kind == "causal":
        everything = count_trained(Question(config_of(shape), variants.Full(), "sft", 0))
        assert everything.trained == shape.parameters
    spec, objective = variants.PeftMethod(name="hra"), "sequence_classification"
    counted = count_trained(Question(config_of(shape), spec, objective, 5))
    assert counted.trained == trained_parameters(shape, spec, objective=objective, labels=5)


def test_methods_without_a_formula_are_exactly_these() -> None:
    assert METHODS.keys() | UNKNOWN == peft_methods.METHODS.keys()


@pytest.mark.parametrize("objective", ["sequence_classification", "token_classification", "question_answering"])
@pytest.mark.parametrize("family", ["bert", "llama", "mistral"])
@pytest.mark.parametrize(
    "spec", [variants.Lora(rank=2), variants.Freeze(layers=1), variants.Full()], ids=["lora", "freeze", "full"]
)
def test_heads_count(spec: Any, family: str, objective: str, tmp_path: Path) -> None:
    if family == "bert":
        tiny_encoder_folder(tmp_path)
    else:
        tiny_causal_model(family, tmp_path)
    classes: dict[str, Any] = {
        "sequence_classification": transformers.AutoModelForSequenceClassification,
        "token_classification": transformers.AutoModelForTokenClassification,
        "question_answering": transformers.AutoModelForQuestionAnswering,
    }
    labels = 2 if objective == "question_answering" else 5
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    config.num_labels = labels
    with torch.random.fork_rng(devices=[]):
        model = classes[objective].from_config(config)
    shape, kind = shape_of(tmp_path), {"objective": objective, "labels": labels}
    assert model_parameters(shape, **kind) == sum(one.numel() for one in model.parameters())
    assert trained_parameters(shape, spec, **kind) == trained_in(make_technique(spec).prepare(model, seed=0))
