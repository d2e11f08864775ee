"""A recipe proposed from what was measured and what the plan says, on machines and matrices made by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from matrix_cases import failed, gain, matrix_of, ran
from planning_cases import CONFIG, ROWS, facts_of

from tunesmith.errors import ResourceError, TunesmithError
from tunesmith.jobs.advice import Advice, advise
from tunesmith.jobs.planning import Planned, plan_recipe
from tunesmith.matrix.cell import Matrix
from tunesmith.matrix.plan import load_layout
from tunesmith.matrix.rules import tells_apart
from tunesmith.recipe.load import apply_overrides, load_recipe, parse_recipe
from tunesmith.recipe.schema import Recipe
from tunesmith.runs.atomic import write_json
from tunesmith.tasks.prepare import TASKS

TECHNIQUES = {"full tuning", "LoRA", "QLoRA", "PEFT (OFT)", "DoRA"}
Proposing = Callable[..., Advice]


@dataclass(frozen=True)
class Machine:
    """What advice is asked of; ``plan`` makes the plan of a recipe there."""

    folder: Path
    facts: dict[str, Any]

    def plan(self, recipe: Recipe) -> Planned:
        return plan_recipe(recipe, self.folder / "runs", str(self.folder / "machine.yaml"), lambda: self.facts)


@pytest.fixture
def machine(tmp_path: Path, propose: Proposing) -> Machine:
    return Machine(tmp_path, facts_of(ROWS))


@pytest.fixture
def propose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proposing:
    """Advice for two cores with so many gigabytes; ``machine`` changes the machine, ``data`` the rows."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "model"
    model.mkdir()
    write_json(model / "config.json", CONFIG)

    def make(
        gigabytes: float = 24, *settings: str, matrix: Matrix | None = None, wish: str = "quality", **more: Any
    ) -> Advice:
        data = more.pop("data", ROWS)
        facts = facts_of(data)
        machine = {
            "id": "two-cores",
            "name": "Two cores",
            "device": "cpu",
            "cores": 2,
            "host_memory_bytes": int(gigabytes * 1e9),
            "matmul_flops_per_second": {"float32": 200e9},
            "source": "made up",
            **more,
        }
        (tmp_path / "machine.yaml").write_text(yaml.safe_dump(machine))
        # The rows are nowhere, so that nothing is remembered of them.
        given = {"model": str(model), "data": {"train": str(tmp_path / "rows.jsonl")}}
        return advise(
            parse_recipe(apply_overrides(given, settings)),
            tmp_path / "runs",
            lambda: facts,
            hardware=str(tmp_path / "machine.yaml"),
            wish=wish,  # type: ignore[arg-type]
            matrix=matrix,
        )

    return make


def measured(**gains: Any) -> Matrix:
    """Gains by column in the scenario of word problems."""
    return matrix_of(*(ran("problems", name, gain=one) for name, one in gains.items()))


def titles(advice: Advice) -> list[str]:
    return [one.title for one in advice.candidates]


def test_every_technique_of_one_process_is_looked_at(propose) -> None:
    advice = propose()
    assert set(titles(advice)) == TECHNIQUES
    assert advice.refused == ()
    assert all(one.way.fits for one in advice.candidates)


def test_the_best_that_was_measured_is_proposed(propose) -> None:
    for best in ("full", "lora", "qlora", "peft", "dora"):
        gains = dict.fromkeys(("full", "lora", "qlora", "peft", "dora"), gain(0.1, 0.01)) | {best: gain(0.4, 0.01)}
        advice = propose(matrix=measured(**gains))
        assert titles(advice)[0] == load_layout().column(best).title
        expected = {"peft": "oft"}.get(best, best)
        assert advice.recipe.technique.name == expected


def test_of_those_not_told_apart_the_faster_one_is_proposed(propose) -> None:
    matrix = measured(dora=gain(0.31, 0.05), full=gain(0.3, 0.05), qlora=gain(0.28, 0.05), lora=gain(0.1, 0.01))
    advice = propose(matrix=matrix)
    near = [one for one in advice.candidates if one.gain and not tells_apart(one.gain, gain(0.31, 0.05))]
    assert [one.title for one in near] == titles(advice)[:3]
    seconds = [one.way.equal_seconds for one in near]
    assert seconds == sorted(seconds)
    assert near[0].title == "QLoRA", "the largest number alone would be DoRA's"


def test_what_was_measured_to_be_less_stands_behind_in_order(propose) -> None:
    matrix = measured(
        full=gain(0.2, 0.01), lora=gain(0.4, 0.01), qlora=gain(0.1, 0.01), peft=gain(0.3, 0.01), dora=gain(-0.2, 0.01)
    )
    assert titles(propose(matrix=matrix)) == ["LoRA", "PEFT (OFT)", "full tuning", "QLoRA", "DoRA"]


def test_gains_of_other_tasks_say_nothing(propose) -> None:
    others = matrix_of(ran("routing", "qlora", gain=gain(0.9, 0.01)), ran("routing", "lora", gain=gain(0.1, 0.01)))
    advice = propose(matrix=others)
    assert all(one.gain is None for one in advice.candidates)
    assert any("nothing was measured" in reason for reason in advice.reasons)
    sorting = replace(ROWS, task="classification", shape="text_label", default_metrics=("accuracy",), labels=3)
    assert titles(propose(matrix=others, data=sorting))[0] == "QLoRA"


def test_of_unmeasured_techniques_lora_comes_first_then_the_fastest(propose) -> None:
    advice = propose()
    assert titles(advice)[0] == "LoRA"
    first, *others = (one.way.equal_seconds for one in advice.candidates)
    assert others == sorted(others)
    assert first > others[0], "not for its time"


def per_token(planned: Planned) -> float:
    """Seconds of training for a token of rows."""
    return planned.plan.time.step_seconds * planned.plan.time.steps / planned.plan.time.tokens


@pytest.mark.parametrize("more", [(), ("train.budget=3m",)], ids=["open epochs", "budget"])
@pytest.mark.parametrize("wish", ["time", "cost"])
def test_the_least_time_is_that_of_equal_work(propose, machine, wish, more) -> None:
    """Full tuning trains fewer epochs in the time that open epochs and a budget leave it; that makes it no faster."""
    settings = ("evaluate.max_new_tokens=8", *more)
    price = PRICE if wish == "cost" else {}
    advice = propose(24, *settings, wish=wish, **price)
    paces = [
        per_token(machine.plan(changed(advice.recipe, f"technique={one.way.technique}"))) for one in advice.candidates
    ]
    assert paces == sorted(paces)
    by_title = {one.title: one for one in advice.candidates}
    full, lora = by_title["full tuning"].way, by_title["LoRA"].way
    assert full.epochs < 0.9 * lora.epochs
    assert full.equal_seconds > 1.1 * lora.equal_seconds
    assert full.same_work is False
    assert lora.same_work is True
    told = next(reason for reason in advice.reasons if "full tuning: " in reason)
    assert f"min for {full.epochs:.2g} epochs, {full.equal_seconds / 60:.0f} min for equal work" in told
    assert "epochs" not in next(reason for reason in advice.reasons if "LoRA: " in reason)


def test_the_time_of_equal_work_is_that_of_a_plan_with_as_many_epochs(propose, machine) -> None:
    advice = propose(24, "evaluate.learning_curve=true", "train.tokens_per_step=2048")
    by_title = {one.title: one.way for one in advice.candidates}
    settings = ("technique=full", f"train.epochs={by_title['LoRA'].epochs}", "train.validate_every_steps=1000000")
    planned = machine.plan(changed(advice.recipe, *settings, "train.checkpoint_every_steps=1000000")).plan
    assert by_title["full tuning"].equal_seconds == pytest.approx(planned.time.total_seconds, rel=0.005)


def changed(recipe: Recipe, *settings: str) -> Recipe:
    return parse_recipe(apply_overrides(recipe.model_dump(mode="json", exclude_unset=True), settings))


def test_the_unmeasured_come_behind_what_is_not_worse_lora_first_among_them(propose) -> None:
    advice = propose(matrix=measured(full=gain(0.01), qlora=gain(0.4, 0.01), dora=WORSE))
    assert titles(advice) == ["QLoRA", "full tuning", "LoRA", "PEFT (OFT)", "DoRA"]


def gains_by_title(advice: Advice) -> dict[str, Any]:
    return {one.title: one.gain for one in advice.candidates}


def test_of_the_scenarios_of_a_row_the_one_of_the_same_task_counts(propose) -> None:
    problems, answers = gain(0.4, 0.01), gain(0.2, 0.03)
    matrix = matrix_of(
        ran("problems", "lora", gain=problems), ran("qa", "lora", gain=answers), ran("qa", "dora", gain=answers)
    )
    found = {task: gains_by_title(propose(matrix=matrix, data=replace(ROWS, task=task))) for task in ("math", "qa")}
    assert found["math"]["LoRA"] == problems
    assert found["math"]["DoRA"] is None, "gains of two scenarios are not held against each other"
    assert (found["qa"]["LoRA"], found["qa"]["DoRA"]) == (answers, answers)


def test_without_a_scenario_of_the_same_task_the_first_measured_one_of_the_row_counts(propose) -> None:
    problems, answers = gain(0.4, 0.01), gain(0.2, 0.03)
    only_answers = [ran("qa", "lora", gain=answers), failed("problems", "lora", "no rows")]
    both = [ran("qa", "lora", gain=answers), ran("problems", "lora", gain=problems)]
    sql = replace(ROWS, task="text_to_sql")
    assert gains_by_title(propose(matrix=matrix_of(*only_answers)))["LoRA"] == answers, "math has none of its own"
    assert gains_by_title(propose(matrix=matrix_of(*only_answers), data=sql))["LoRA"] == answers
    assert gains_by_title(propose(matrix=matrix_of(*both), data=sql))["LoRA"] == problems, "it stands first"
    shared_alone = matrix_of(ran("problems", "lora", kind="pooled", gain=problems), *only_answers[:1])
    assert gains_by_title(propose(matrix=shared_alone))["LoRA"] == answers, "memory was measured there, not quality"


WORSE = gain(-0.3, 0.05)


@pytest.mark.parametrize("wish", ["memory", "time", "cost", "quality"])
def test_what_was_measured_to_make_things_worse_is_last(propose, wish) -> None:
    """The two that would come first for one wish or the other, and the slowest one."""
    matrix = measured(full=gain(0.2), lora=WORSE, qlora=gain(0.2), peft=WORSE, dora=WORSE)
    worse = {"LoRA", "PEFT (OFT)", "DoRA"}
    assert set(titles(propose(matrix=matrix, wish=wish))[-3:]) == worse
    few = measured(**dict.fromkeys(("lora", "peft", "dora"), gain(-0.3, 0.05, enough=False)), full=gain(0.2))
    assert set(titles(propose(matrix=few, wish=wish))[-3:]) != worse, "too few rows say nothing"


def test_what_was_measured_to_make_things_worse_is_never_proposed_before_the_unmeasured(propose) -> None:
    assert titles(propose(matrix=measured(lora=WORSE)))[-1] == "LoRA"


def test_worse_is_worse_also_where_the_best_is_not_told_apart_from_it(propose) -> None:
    """The best has so wide an interval that even a loss lies within it."""
    advice = propose(matrix=measured(qlora=gain(0.1, 0.6), full=gain(-0.3, 0.1)))
    worse = next(at for at, one in enumerate(advice.candidates) if one.title == "full tuning")
    best = next(at for at, one in enumerate(advice.candidates) if one.title == "QLoRA")
    assert best < worse == len(advice.candidates) - 1


@pytest.mark.parametrize(
    ("wish", "number"), [("memory", "peak_bytes"), ("time", "equal_seconds"), ("cost", "equal_seconds")]
)
def test_least_memory_and_least_time_can_be_asked_for(propose, wish, number) -> None:
    advice = propose(wish=wish, matrix=measured(dora=gain(0.9, 0.01), lora=gain(0.1, 0.01)))
    numbers = [getattr(one.way, number) for one in advice.candidates]
    assert numbers == sorted(numbers)
    assert numbers[0] < numbers[-1]
    assert advice.candidates[0].title != "DoRA", "quality is not asked for"


def test_least_cost_without_a_price_says_that_time_stands_for_it(propose) -> None:
    assert any("no price is configured for Two cores" in reason for reason in propose(wish="cost").reasons)
    price = {"price_per_hour": 0.2, "currency": "EUR", "price_date": "2026-11-01", "price_source": "an offer"}
    for advice in (propose(wish="cost", **price), propose(wish="time")):
        assert not any("no price" in reason for reason in advice.reasons)
    prices = [one.way.equal_price for one in propose(wish="cost", **price).candidates]
    assert prices == sorted(prices)


def test_the_least_memory_of_a_gpu_is_that_of_four_bits(propose) -> None:
    gpu = {"device": "cuda", "device_memory_bytes": int(80e9)}
    assert propose(500, wish="memory", **gpu).recipe.technique.name == "qlora"


def test_the_least_memory_of_a_small_model_on_a_processor_is_that_of_lora(propose) -> None:
    """Four bits save 80 MB of it there, and take more than that for their library."""
    advice = propose(wish="memory")
    assert advice.recipe.technique.name == "lora"
    assert "QLoRA" in titles(advice)


def test_what_does_not_fit_gets_the_cheapest_change(propose) -> None:
    matrix = measured(qlora=gain(0.4, 0.01), lora=gain(0.1, 0.01))
    asked = ("evaluate.max_new_tokens=8", "train.activation_checkpointing=false")
    advice = propose(2.5, *asked, matrix=matrix)
    chosen = advice.candidates[0]
    assert chosen.title == "QLoRA"
    assert chosen.way.fits
    changes = [one for one in chosen.settings if not one.startswith("technique=")]
    assert changes
    assert chosen.way.peak_bytes <= 0.9 * 2.5e9
    text = advice.text
    for change in changes:
        key, _, value = change.partition("=")
        assert key.split(".")[-1] in text.split("model:")[1], "the recipe has the change"
        assert f"{key}={value}" in text.split("model:")[0], "and a comment says why"
    roomy = propose(24, *asked, matrix=matrix).candidates[0]
    assert roomy.settings == ("technique=qlora",)
    assert roomy.way.total_seconds <= chosen.way.total_seconds


def test_what_train_does_by_itself_to_fit_is_no_change_and_is_told(propose, machine) -> None:
    told = "`train` computes activations again, since memory is not enough otherwise"
    asked = ("technique=dora", "evaluate.max_new_tokens=8")
    by_size = {size: propose(size, *asked, matrix=measured(dora=gain(0.4, 0.01))) for size in (24, 4)}
    for size, advice in by_size.items():
        chosen = advice.candidates[0]
        assert (chosen.title, chosen.settings) == ("DoRA", ())
        assert bool(chosen.way.activation_checkpointing) == (size == 4) == (told in advice.reasons)
        assert "activation_checkpointing" not in advice.recipe.train.model_fields_set
    planned = machine.plan(by_size[4].recipe)
    assert planned.resolved.activation_checkpointing is True
    assert planned.plan.fits


@pytest.mark.parametrize("gigabytes", [24, 4, 3, 2.5])
@pytest.mark.parametrize("best", ["full", "lora", "qlora", "peft", "dora"])
def test_the_plan_of_the_proposed_recipe_is_the_one_that_was_told(propose, machine, gigabytes, best) -> None:
    advice = propose(gigabytes, "evaluate.max_new_tokens=8", matrix=measured(**{best: gain(0.4, 0.01)}))
    planned = machine.plan(advice.recipe).plan
    assert planned.fits
    assert planned.memory.peak == advice.candidates[0].way.peak_bytes
    assert planned.time.total_seconds == pytest.approx(advice.candidates[0].way.total_seconds)


@pytest.mark.parametrize("wish", ["quality", "memory"])
def test_a_technique_that_the_recipe_names_is_a_candidate_too(propose, wish) -> None:
    advice = propose(24, "technique=freeze", "technique.layers=1", wish=wish)
    (own,) = (one for one in advice.candidates if one.column == "freeze")
    assert (own.settings, own.gain) == ((), None)
    assert set(titles(advice)) == TECHNIQUES | {"freeze"}
    chosen = advice.candidates[0].title == "freeze"
    assert chosen == (advice.recipe.technique.name == "freeze")
    assert chosen or "instead of freeze: " in advice.text


def test_a_technique_that_has_a_column_already_is_no_second_candidate(propose) -> None:
    advice = propose(24, "technique=dora")
    assert sorted(titles(advice)) == sorted(TECHNIQUES)
    assert {one.column for one in advice.candidates} == {"full", "lora", "qlora", "peft", "dora"}
    (own,) = (one for one in advice.candidates if one.column == "dora")
    assert own.settings == ()


def test_what_cannot_fit_is_left_out_and_told(propose) -> None:
    advice = propose(3, matrix=measured(full=gain(0.9, 0.01)))
    assert "full tuning" not in titles(advice)
    (told,) = advice.refused
    assert told.startswith("full tuning does not fit")
    assert "GiB" in told


@pytest.mark.parametrize(
    ("gigabytes", "gpu", "expected"),
    [(2, {}, 2e9), (500, {"device": "cuda", "device_memory_bytes": int(1.5e9)}, 1.5e9)],
    ids=["processor", "gpu"],
)
def test_the_memory_of_what_does_not_fit_is_more_than_what_can_be_used(propose, gigabytes, gpu, expected) -> None:
    """Who reads that 1.7 GiB do not fit where 2 GiB are has to guess why, unless both are told."""
    with pytest.raises(ResourceError) as caught:
        propose(gigabytes, **gpu)
    numbers = re.fullmatch(r"([\d.]+) of ([\d.]+) GiB can be used; (.*)", caught.value.value or "")
    assert numbers is not None
    usable, there = float(numbers[1]), float(numbers[2])
    assert usable < there == pytest.approx(expected / 2**30, abs=0.051)
    needs = [float(need) for need in re.findall(r"does not fit: ([\d.]+) GiB", numbers[3])]
    assert len(needs) == len(TECHNIQUES)
    assert all(need > usable for need in needs)


def test_where_nothing_fits_every_reason_is_told(propose) -> None:
    with pytest.raises(ResourceError) as caught:
        propose(0.5)
    assert caught.value.code == "resource.advice"
    assert caught.value.place == "Two cores"
    assert all(title in (caught.value.value or "") for title in TECHNIQUES)
    assert "smaller model" in (caught.value.hint or "")


def test_what_does_not_go_with_the_rest_of_the_recipe_is_told(propose) -> None:
    liked = replace(ROWS, task="preference", shape="preference", default_metrics=("pair_accuracy",))
    advice = propose(24, "objective=dpo", data=liked)
    assert "full tuning does not go with the rest of the recipe" in advice.refused
    assert "full tuning" not in titles(advice)


def test_the_text_is_a_recipe_with_its_reasons(propose, tmp_path) -> None:
    advice = propose(24, "train.budget=20m", matrix=measured(dora=gain(0.4, 0.01), lora=gain(0.1, 0.01)))
    (tmp_path / "proposed.yaml").write_text(advice.text)
    assert load_recipe(tmp_path / "proposed.yaml") == advice.recipe
    recipe = advice.recipe
    assert (recipe.technique.name, recipe.task, recipe.train.budget) == ("dora", "math", "20m")
    assert "objective" not in recipe.model_fields_set, "what was left open stays open"
    comments = [line for line in advice.text.splitlines() if line.startswith("#")]
    assert advice.text.startswith("\n".join(comments))
    for reason in advice.reasons:
        assert f"# - {reason}" in comments
    told = "\n".join(comments)
    for word in (
        "task math, 7,000 rows of 217 tokens, on Two cores",
        "the best answers",
        'measured for "question answering" on smollm2-135m-instruct: +0.400 (+0.390 to +0.410)',
        "instead of LoRA",
        "gain +0.100",
    ):
        assert word in told
    assert "not told apart" not in told


def test_gains_that_are_not_told_apart_say_so(propose) -> None:
    advice = propose(matrix=measured(dora=gain(0.4, 0.1), lora=gain(0.35, 0.1)))
    second = advice.candidates[1]
    assert second.gain is not None
    assert f"gain {second.gain.value:+.3f} (" in advice.text
    assert ", not told apart" in advice.text


@pytest.mark.parametrize(
    ("open_gain", "words"),
    [
        (gain(0.9, 1.0), "+0.900 (-0.100 to +1.900), undecided"),
        (gain(0.9, 0.1, enough=False), "+0.900 (+0.800 to +1.000, too few rows), undecided"),
    ],
    ids=["interval over 0", "too few rows"],
)
def test_a_proven_gain_goes_before_a_larger_one_that_is_undecided(propose, open_gain, words) -> None:
    """The undecided one is QLoRA's, which is faster than the other two."""
    matrix = measured(qlora=open_gain, dora=gain(0.2, 0.1), full=gain(0.2, 0.1))
    advice = propose(matrix=matrix)
    assert titles(advice)[2] == "QLoRA"
    assert "instead of QLoRA: " in advice.text
    assert f"gain {words}" in advice.text
    assert advice.candidates[2].way.equal_seconds < advice.candidates[0].way.equal_seconds
    alone = propose(matrix=measured(qlora=open_gain))
    assert titles(alone)[0] == "QLoRA", "it speaks for more than nothing does"
    assert f"on smollm2-135m-instruct: {words} over the untuned model" in alone.text


def test_what_the_recipe_has_already_stays(propose) -> None:
    advice = propose(
        24, "technique.rank=4", "technique.initialization=pissa", "train.seed=7", matrix=measured(lora=gain(0.4))
    )
    technique = advice.recipe.technique
    assert (technique.name, technique.rank, technique.initialization) == ("lora", 4, "pissa")
    assert advice.recipe.train.seed == 7
    other = propose(
        24, "technique.rank=4", matrix=measured(dora=gain(0.4, 0.01), lora=gain(0.1, 0.01))
    ).recipe.technique
    assert (other.name, other.rank) == ("dora", 4)


def test_a_name_of_several_lines_stays_a_comment(propose, tmp_path) -> None:
    advice = propose(name="Two cores\nof the rack")
    (tmp_path / "proposed.yaml").write_text(advice.text)
    assert load_recipe(tmp_path / "proposed.yaml") == advice.recipe


PRICE = {"price_per_hour": 3.6, "currency": "EUR", "price_date": "2026-11-01", "price_source": "an offer"}


def test_cost_is_told_where_there_is_a_price(propose) -> None:
    advice = propose(wish="cost", **PRICE)
    chosen = advice.candidates[0]
    assert chosen.price == pytest.approx(3.6 * chosen.way.total_seconds / 3600)
    assert f"{chosen.price:.2f} EUR" in advice.text
    assert propose().candidates[0].price is None
    assert "EUR" not in propose().text


def test_every_gpu_costs(propose) -> None:
    gpu = {"device": "cuda", "device_memory_bytes": int(80e9), "devices": 4, **PRICE}
    one, four = (propose(500, f"train.devices={count}", **gpu).candidates[0] for count in (1, 4))
    assert one.price == pytest.approx(3.6 * one.way.total_seconds / 3600)
    assert four.price == pytest.approx(4 * 3.6 * four.way.total_seconds / 3600)


def test_the_recipe_has_the_devices_that_its_reasons_were_computed_for(propose, machine) -> None:
    advice = propose(500, device="cuda", device_memory_bytes=int(24e9), devices=8)
    assert advice.recipe.train.devices == 8
    written = load_recipe(written_to(machine.folder / "proposed.yaml", advice.text))
    planned, chosen = machine.plan(written).plan, advice.candidates[0].way
    assert (planned.devices, planned.strategy) == (8, chosen.strategy)
    assert (planned.memory.peak, planned.time.total_seconds) == (chosen.peak_bytes, chosen.total_seconds)
    # Where several machines of a kind may be had with fewer devices, the file alone says what was planned.
    propose(500, device="cuda", device_memory_bytes=int(24e9), devices=16)
    assert machine.plan(written).plan.devices == 8
    asked = propose(500, "train.devices=2", device="cuda", device_memory_bytes=int(24e9), devices=8)
    assert asked.recipe.train.devices == 2


def written_to(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_every_task_belongs_to_a_row_of_the_page(propose) -> None:
    """A measured gain is found for each task that there is."""
    layout = load_layout()
    everywhere = matrix_of(*(ran(scenario.id, "lora", gain=gain(0.3)) for scenario in layout.scenarios))
    for task in TASKS:
        if task == "preference":
            continue
        rows = replace(ROWS, task=task)
        try:
            advice = propose(matrix=everywhere, data=rows)
        except TunesmithError as error:
            pytest.fail(f"{task}: {error}")
        found = {one.title: one.gain for one in advice.candidates}
        assert found["LoRA"] is not None, task
