"""Multiple-choice scores are those of the lm-evaluation-harness, answer by answer, and its tasks run on our models."""

from __future__ import annotations

import json

import pytest
from harness_tasks import SAMPLE, write_harness_tasks
from tiny_models import tiny_model_folder

from tunesmith.errors import NetworkError, UsageError
from tunesmith.evaluation.harness import HarnessTasks, run_harness
from tunesmith.evaluation.multiple_choice import Scoring
from tunesmith.evaluation.robustness import choice_metrics, measure_choices
from tunesmith.formats.choices import read_choices
from tunesmith.models.load import LoadPlan, load_model, load_tokenizer

pytest.importorskip("lm_eval")
datasets = pytest.importorskip("datasets")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the libraries below it warn of each other


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model_folder("llama", tmp_path_factory.mktemp("model"), max_position_embeddings=1024)


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """The harness's own tasks, with our questions as their data and without a network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    # The library reads the variable when it is first imported, which another test may have done.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    return write_harness_tasks(tmp_path / "tasks")


def test_mc1_and_mc2_are_those_of_the_harness(folder, tasks):
    tokenizer = load_tokenizer(folder)
    theirs = run_harness(
        load_model(LoadPlan(folder, attention="sdpa")), tokenizer, HarnessTasks(("ours_mc1", "ours_mc2"), tasks)
    )
    scores = measure_choices(
        load_model(LoadPlan(folder)),
        read_choices(SAMPLE).questions,
        Scoring(tokenizer, 1024, packed=True),
        robustness=False,
        seed=0,
    )
    ours = choice_metrics(scores, 0)
    assert ours["mc1"]["value"] == pytest.approx(theirs["ours_mc1/acc"]["value"], abs=1e-9)
    assert ours["mc2"]["value"] == pytest.approx(theirs["ours_mc2/acc"]["value"], rel=1e-4)
    assert 0 < ours["mc1"]["value"] < 1
    assert theirs["ours_mc1/acc"]["low"] < theirs["ours_mc1/acc"]["value"] < theirs["ours_mc1/acc"]["high"]


def test_each_answer_is_as_likely_as_the_harness_finds_it(folder, tasks):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from tunesmith.evaluation.multiple_choice import answers_of, log_likelihoods, prompt_of

    tokenizer, questions = load_tokenizer(folder), read_choices(SAMPLE).questions[:8]
    wrapped = HFLM(load_model(LoadPlan(folder, attention="sdpa")), backend="causal", tokenizer=tokenizer, batch_size=4)
    pairs = [(prompt_of(one), f" {text}") for one in questions for text in answers_of(one)]
    theirs = wrapped.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs], disable_tqdm=True)
    ours = log_likelihoods(load_model(LoadPlan(folder)), questions, Scoring(tokenizer, 1024, packed=True))
    mine = [ours[at][text] for at, one in enumerate(questions) for text in answers_of(one)]
    assert mine == pytest.approx([float(total) for total, _ in theirs], rel=1e-4)


def test_what_the_harness_lacks_is_named(folder, tasks):
    model, tokenizer = load_model(LoadPlan(folder, attention="sdpa")), load_tokenizer(folder)
    with pytest.raises(UsageError, match="no such task") as caught:
        run_harness(model, tokenizer, HarnessTasks(("nonesuch_task",), tasks))
    assert caught.value.code == "usage.harness_task"
    with pytest.raises(NetworkError, match="cannot be fetched") as missing:
        run_harness(model, tokenizer, HarnessTasks(("truthfulqa_mc1",)))
    assert missing.value.code == "network.harness_data"


def test_rows_bound_what_is_asked(folder, tasks):
    model, tokenizer = load_model(LoadPlan(folder, attention="sdpa")), load_tokenizer(folder)
    found = run_harness(model, tokenizer, HarnessTasks(("ours_mc1",), tasks, rows=4))
    assert json.dumps(found)
    assert found["ours_mc1/acc"]["value"] * 4 == pytest.approx(round(found["ours_mc1/acc"]["value"] * 4))
