"""What was counted in a built model: what it depends on, that it is remembered, and that plans go by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunesmith.planner import counted
from tunesmith.planner.alternatives import alternatives, cheapest_fits
from tunesmith.planner.counted import Question, question_of, remember, remembered
from tunesmith.planner.plan import make_plan
from tunesmith.planner.shape import config_of
from tunesmith.planner.trained import Counted
from tunesmith.recipe.techniques import PeftMethod

OSF = PeftMethod(name="osf")


@pytest.fixture
def question(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return Question(tiny_config, OSF, "sft", 0)


def test_what_was_counted_is_remembered(question):
    assert remembered(question) is None
    remember(question, Counted(OSF, 15040))
    assert remembered(question) == Counted(OSF, 15040)
    needs_weights = replace(question, technique=PeftMethod(name="shira", settings={"layers_to_transform": [0]}))
    remember(needs_weights, Counted(needs_weights.technique, None, "the weights are sorted"))
    assert remembered(needs_weights) == Counted(needs_weights.technique, None, "the weights are sorted")


@pytest.mark.parametrize("content", ["", "[]", '{"trained": true, "why": null}', '{"trained": null, "why": null}'])
def test_what_cannot_be_read_is_counted_again(question, tmp_path, content):
    remember(question, Counted(OSF, 15040))
    (path,) = (tmp_path / "cache" / "counts").iterdir()
    path.write_text(content)
    assert remembered(question) is None


def test_a_cache_that_cannot_be_written_only_means_to_count_again(question, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder would be")
    remember(question, Counted(OSF, 15040))
    assert remembered(question) is None


@pytest.mark.parametrize(
    "change",
    [
        {"technique": PeftMethod(name="lily")},
        {"technique": PeftMethod(name="osf", settings={"effective_rank": 3})},
        {"technique": PeftMethod(name="osf", targets=("q_proj",))},
        {"objective": "sequence_classification", "classes": 3},
        {"objective": "sequence_classification", "classes": 4},
    ],
)
def test_another_question_has_another_answer(question, change):
    remember(question, Counted(OSF, 15040))
    assert remembered(replace(question, **change)) is None


def test_another_model_or_library_has_another_answer(question, monkeypatch):
    remember(question, Counted(OSF, 15040))
    assert remembered(replace(question, config={**question.config, "num_hidden_layers": 3})) is None
    assert remembered(replace(question, config={**question.config, "_name_or_path": "elsewhere"})) is not None
    monkeypatch.setattr(counted, "version", lambda name: "99" if name == "peft" else "1")
    assert remembered(question) is None


def test_only_what_no_formula_tells_is_asked(tiny, tiny_config, data, processor, settled):
    def asked(*settings, config=tiny_config):
        return question_of(tiny, config, settled(*settings, hardware=processor, shape=tiny), data)

    assert asked("technique=lora") is None
    assert asked("technique=frod") is None
    assert asked("technique=osf", config=None) is None
    found = asked("technique=osf")
    assert found is not None
    assert (found.technique, found.objective, found.classes) == (OSF, "sft", 0)


def test_the_numbers_of_a_shape_are_those_of_its_config(tiny, tiny_config):
    known = config_of(tiny)
    assert {key: known[key] for key in tiny_config} == tiny_config


def test_plans_go_by_what_was_counted(starter, data, processor, changing, settled):
    """The recipe as it is, checkpointed, and in smaller packs; other techniques keep their own numbers."""
    change = changing("technique=osf", hardware=processor)
    found = Counted(OSF, 123_456_789)
    plan = make_plan(starter, settled("technique=osf", hardware=processor), data, processor, counted=found)
    assert (plan.memory.trained_parameters, plan.memory.trained_is_known) == (123_456_789, True)
    ways = {one.settings: one for one in alternatives(starter, data, processor, change, counted=found)}
    assert ways[()].trained_parameters == 123_456_789
    assert ways[("train.activation_checkpointing=true",)].trained_parameters == 123_456_789
    assert ways[("technique=lora",)].trained_parameters == 4_884_480
    small = processor.model_copy(update={"host_memory_bytes": int(plan.memory.host * 0.9)})
    fitting = cheapest_fits(starter, data, small, change, counted=found)
    assert fitting
    kept = [one for one in fitting if one.technique == "osf"]
    assert all(one.trained_parameters == 123_456_789 for one in kept)


def test_a_guess_is_marked_with_its_reason(starter, data, processor, settled):
    resolved = settled("technique=osf", hardware=processor)
    found = Counted(OSF, None, "the weights are sorted")
    plan = make_plan(starter, resolved, data, processor, counted=found)
    assert not plan.memory.trained_is_known
    assert any("osf trains is a guess" in note and "the weights are sorted" in note for note in plan.notes)
