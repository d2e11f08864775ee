"""Plans around real runs: made before, refused or changed where memory is not enough, and held against the truth."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import serve_hub
from planning_cases import machine_of_bytes
from real_worker import Place, RealRun, write_labelled

from tunesmith.errors import ResourceError
from tunesmith.models.host import memory_bytes
from tunesmith.models.load import LoadPlan, load_model
from tunesmith.pipeline import planned
from tunesmith.pipeline.data import load_data
from tunesmith.pipeline.prepare import prepare, resolve_run
from tunesmith.pipeline.told import Teller
from tunesmith.recipe.load import load_recipe
from tunesmith.runs.events import open_events
from tunesmith.techniques.table import make_technique

TUNESMITH = Path(sys.executable).with_name("tunesmith")
WIDE_VOCABULARY = 2**17
RECIPE = {"data": {"train": "rows.csv", "validation": 0.25}, "technique": "full", "evaluate": {"rows": 6}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("planning"))
    write_labelled(place.folder / "rows.csv", 32)
    return place


@pytest.fixture(scope="module")
def finished(place: Place) -> RealRun:
    return place.run("planned", RECIPE).done()


def tunesmith(place: Place, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TUNESMITH), *words],
        cwd=place.folder,
        env={**os.environ, "TUNESMITH_CACHE": str(place.folder / "cache"), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_report_holds_the_plan_against_the_truth(finished: RealRun) -> None:
    plan = json.loads(finished.folder.plan.read_text())
    found = {one["what"]: one for one in finished.report["plan"]}
    assert found["steps"]["predicted"] == plan["time"]["steps"] == found["steps"]["measured"]
    assert found["peak_memory_bytes"]["measured"] == finished.report["cost"]["peak_memory_bytes"]
    assert found["trained_parameters"]["predicted"] == finished.report["cost"]["trained_parameters"]
    page = finished.folder.report_markdown.read_text()
    assert "Plan and truth" in page
    assert "Measured / planned" in page
    assert "planned" in finished.states


def test_a_run_teaches_this_machine(place: Place, finished: RealRun) -> None:
    known = json.loads((place.folder / "cache" / "calibration.json").read_text())
    (kinds,) = known["machines"].values()
    assert kinds["time"]["runs"] >= 1


def test_the_command_plans_at_once_what_it_has_seen(place: Place, finished: RealRun) -> None:
    words = ("plan", "--model", str(place.model), "--data", "rows.csv", "technique=full", "data.validation=0.25")
    first = tunesmith(place, *words, "--json")
    assert first.returncode == 0, first.stderr
    planned = json.loads(first.stdout)
    assert planned["plan"]["memory"]["trained_parameters"] == finished.report["cost"]["trained_parameters"]
    assert planned["resolved"]["portable"]["train.tokens_per_step"]["value"] > 0
    second = tunesmith(place, *words, PYTHONPROFILEIMPORTTIME="1")
    assert second.returncode == 0
    assert "auditing" not in second.stderr
    loaded = {line.rpartition("|")[2].strip() for line in second.stderr.splitlines()}
    assert "tunesmith.jobs.planning" in loaded
    assert not {"torch", "transformers"} & loaded, "a worker would say what it loads here too"
    assert "fits:" in second.stdout
    assert "technique=lora" in second.stdout


@pytest.mark.slow
def test_what_no_formula_tells_is_counted_once_and_is_what_training_finds(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the worker for the command, which says so, and in the run's own plan; refused where training would."""
    words = ("plan", "--model", str(place.model), "--data", "rows.csv", "technique=osf")
    first, second = (tunesmith(place, *words, "--json", PYTHONPROFILEIMPORTTIME="1") for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr
    assert "counting once in the built model what the technique trains: osf" in first.stderr
    assert "counting once" not in second.stderr
    assert not {"torch", "peft"} & {line.rpartition("|")[2].strip() for line in second.stderr.splitlines()}
    before, after = (json.loads(one.stdout)["plan"] for one in (first, second))
    assert before == after
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    run = place.run("counted", {**RECIPE, "technique": "osf"})
    prepared, resolved, teller = prepared_run(run)
    planned.plan_run(run.folder, prepared, resolved, teller, is_new=True)
    own = json.loads(run.folder.plan.read_text())["memory"]
    assert own["trained_is_known"]
    model = load_model(LoadPlan(place.model))
    trained = make_technique(resolved.technique).prepare(model, seed=0)
    really = sum(one.numel() for one in trained.parameters() if one.requires_grad)
    assert before["memory"]["trained_parameters"] == own["trained_parameters"] == really
    wrong = tunesmith(place, *words, "technique.targets=[no_such_layer]")
    assert wrong.returncode != 0
    assert "no_such_layer" in wrong.stderr


@pytest.mark.slow
def test_what_needs_the_weights_is_a_guess_that_says_so(place: Place) -> None:
    method = ("technique=adamss", "technique.settings={subspace_rank: 2}")
    done = tunesmith(place, "plan", "--model", str(place.model), "--data", "rows.csv", *method)
    assert done.returncode == 0, done.stderr
    assert "(a guess)" in done.stdout
    assert "adamss trains is a guess" in done.stderr
    assert "without the model's weights" in done.stderr


@pytest.mark.slow
def test_a_probe_teaches_the_plan_this_machine(place: Place, tmp_path: Path) -> None:
    fresh = {**os.environ, "TUNESMITH_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    words = ("plan", "--model", str(place.model), "--data", "rows.csv", "technique=full", "--json")
    done = [
        subprocess.run(
            [str(TUNESMITH), *words, *more], cwd=place.folder, env=fresh, capture_output=True, text=True, check=True
        )
        for more in ((), ("--probe",))
    ]
    before, after = (json.loads(one.stdout)["plan"] for one in done)
    assert before["time_scale"] == 1
    assert after["time_scale"] != 1
    known = json.loads((tmp_path / "cache" / "calibration.json").read_text())
    (kinds,) = known["machines"].values()
    assert kinds["time"]["runs"] == 1


def test_another_machine_cannot_be_probed(place: Place) -> None:
    done = tunesmith(place, "plan", "--model", "x", "--data", "rows.csv", "--probe", "--hardware", "l4", "--json")
    assert "usage.probe" in done.stdout


def test_what_cannot_be_is_refused_in_a_plan_too(place: Place, finished: RealRun) -> None:
    done = tunesmith(
        place, "plan", "--model", str(place.model), "--data", "rows.csv", "strategy=single", "--devices", "2"
    )
    assert done.returncode != 0
    assert "recipe.single_devices" in done.stderr or "single is one device" in done.stderr


def test_a_model_that_is_not_here_is_planned_for_another_machine_by_a_guess(place: Place) -> None:
    done = tunesmith(
        place, "plan", "--model", "llama-3.1-8b-instruct", "--data", "rows.csv", "--hardware", "a100-80gb", "--json"
    )
    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)
    assert planned["plan"]["parameters"] == 8030261248
    assert planned["plan"]["fits"]
    assert any("estimate" in note for note in planned["plan"]["notes"])
    small = tunesmith(
        place, "plan", "--model", "llama-3.1-70b-instruct", "--data", "rows.csv", "--hardware", "rtx-4090"
    )
    assert "does not fit" in small.stdout


def test_guessed_tokens_are_remembered_as_a_guess_until_the_rows_change(place: Place) -> None:
    rows = place.folder / "guessed.csv"
    write_labelled(rows, 32)
    words = ("plan", "--model", "llama-3.1-8b-instruct", "--data", "guessed.csv", "--hardware", "a100-80gb", "--json")
    before = set((place.folder / "cache" / "plans").glob("*.json"))
    first = json.loads(tunesmith(place, *words).stdout)
    (kept,) = set((place.folder / "cache" / "plans").glob("*.json")) - before
    known = json.loads(kept.read_text())
    assert known["guessed"] is True
    # What is remembered is what the next plan takes.
    kept.write_text(json.dumps({**known, "data": {**known["data"], "longest_row": 4321}}))
    second = json.loads(tunesmith(place, *words).stdout)
    assert second["plan"]["memory"] != first["plan"]["memory"]
    assert second["plan"]["notes"] == first["plan"]["notes"]
    assert any("estimate" in note for note in second["plan"]["notes"])
    write_labelled(rows, 48)
    third = json.loads(tunesmith(place, *words).stdout)
    assert third["plan"]["memory"]["activations"] < 0.9 * second["plan"]["memory"]["activations"]


def test_a_model_of_the_hub_is_planned_by_its_config_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    config = (place.model / "config.json").read_bytes()
    with serve_hub() as hub:
        hub.repositories["someone/far"] = {"config.json": config, "model.safetensors": b"weights"}
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_HUB_CACHE", str(place.folder / "hub"))
        done = tunesmith(
            place, "plan", "--model", "someone/far", "--data", "rows.csv", "--hardware", "a100-80gb", "--json"
        )
        asked = list(hub.asked)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["plan"]["fits"]
    assert not any("safetensors" in path for path in asked)


def test_a_file_of_ones_own_says_how_many_devices_there_are(place: Place) -> None:
    (place.folder / "rack.yaml").write_text(
        "{id: rack, name: Rack, device: cuda, devices: 2, device_memory_bytes: 80e9, source: this test,"
        " matmul_flops_per_second: {float32: 2e13, bfloat16: 3e14}}"
    )
    words = ("plan", "--model", "llama-3.1-8b-instruct", "--data", "rows.csv", "--hardware", "rack.yaml", "--json")
    for more, devices in ((), 2), (("--devices", "1"), 1):
        done = tunesmith(place, *words, *more)
        assert json.loads(done.stdout)["plan"]["devices"] == devices, done.stderr
    refused = tunesmith(place, *words, "--devices", "3")
    assert "usage.hardware_devices" in refused.stdout


def test_where_ways_train_unequally_much_the_tables_say_so(place: Place) -> None:
    """Under a budget all take equally long; what tells them apart is how much they train meanwhile."""
    words = ("--model", "smollm2-135m-instruct", "--data", "rows.csv", "--hardware", "laptop-2-cores")
    for command in ("plan", "advise"):
        more = ("-o", "unequal.yaml") if command == "advise" else ()
        done = tunesmith(place, command, *words, *more, "train.budget=3m", "train.epochs=900")
        assert done.returncode == 0, done.stderr
        assert re.search(r"epochs +equal work", done.stdout), command
    equal = tunesmith(place, "plan", *words)
    assert "equal work" not in equal.stdout + equal.stderr


def test_a_plan_says_that_train_would_compute_activations_again(place: Place) -> None:
    """What the recipe leaves open `train` does without being asked, so it is no reason not to fit."""
    lines = [
        json.dumps({"text": f"{number} " + "a line of words that come again and again " * 12}) for number in range(64)
    ]
    (place.folder / "lines.jsonl").write_text("\n".join(lines))
    words = ("plan", "--model", "smollm2-135m-instruct", "--data", "lines.jsonl", "technique=dora", "--hardware")
    speed = "matmul_flops_per_second: {float32: 2e11}"
    machine = f"id: own\nname: Own\ndevice: cpu\nsource: this test\n{speed}\nhost_memory_bytes: "
    (place.folder / "own.yaml").write_text(f"{machine}24e9")
    roomy = json.loads(tunesmith(place, *words, "own.yaml", "--json").stdout)
    needed = roomy["plan"]["memory"]["host"]
    (place.folder / "own.yaml").write_text(f"{machine}{needed}")
    done = tunesmith(place, *words, "own.yaml")
    assert "fits: " in done.stdout
    assert "`train` computes activations again: auto: by the plan it would not fit otherwise" in done.stderr
    assert re.search(r"technique=lora \(no activations again\)", done.stdout)
    refused = tunesmith(place, *words, "own.yaml", "train.activation_checkpointing=false")
    assert "does not fit: " in refused.stdout
    assert "would fit: " in refused.stderr


def test_a_machine_that_is_too_small_is_told_with_ways_that_fit(place: Place) -> None:
    """Also one whose GPUs have room, and whose host has none for what is offloaded."""
    card = "device: cuda, device_memory_bytes: 80e9, source: this test, matmul_flops_per_second: {float32: 2e13}"
    words = ("plan", "--model", "llama-3.1-8b-instruct", "--data", "rows.csv", "--hardware")
    (place.folder / "small.yaml").write_text(f"{{id: small, name: Small, devices: 8, host_memory_bytes: 32e9, {card}}}")
    offloads = ("small.yaml", "technique=full", "strategy=zero2", "train.offload=true")
    done = tunesmith(place, *words, *offloads, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    plan = found["plan"]
    assert not plan["fits"]
    assert plan["memory"]["offloaded"] > 32e9
    assert found["changes"]
    assert all(one["fits"] and one["offloaded_bytes"] < 32e9 for one in found["changes"])
    wanted = {"parts", "host_bytes", "checkpoint_bytes", "price", "largest_micro_batch", "longest_context"}
    assert all(wanted <= one.keys() for one in found["others"])
    told = tunesmith(place, *words, *offloads)
    assert "does not fit" in told.stdout
    assert "the host keeps" in told.stdout
    assert "would fit: " in told.stderr
    (place.folder / "card.yaml").write_text(f"{{id: card, name: Card, devices: 8, {card}}}")
    unknown = tunesmith(place, *words, "card.yaml", *offloads[1:])
    assert "and has unknown memory" in unknown.stdout
    assert "yes if the host has " in unknown.stdout


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A model whose scores of all rows at once are more than this machine's memory, and rows for it."""
    place = Place.make(tmp_path_factory.mktemp("wide"), vocab_size=WIDE_VOCABULARY)
    labels = int(1.2 * memory_bytes()) // (2 * 4 * WIDE_VOCABULARY)
    text = "a line of words that come again and again "
    # A token of this tokenizer has fewer than four letters.
    lines = [json.dumps({"text": text * 6 + str(number)}) for number in range(labels * 4 // len(text * 6) + 1)]
    (place.folder / "rows.jsonl").write_text("\n".join(lines))
    return place


# One pack of all rows, for which the scores of all labels are made.
ONE_PACK = {"tokens_per_micro_batch": 10_000_000, "tokens_per_step": 10_000_000, "epochs": 1}


def test_the_command_refuses_to_train_what_does_not_fit(wide: Place) -> None:
    settings = (f"train.{key}={value}" for key, value in {**ONE_PACK, "precision": "float32"}.items())
    words = ("train", "--model", str(wide.model), "--data", "rows.jsonl", "--name", "refused", "technique=full")
    done = tunesmith(wide, *words, "evaluate.rows=2", *settings)
    assert done.returncode != 0
    assert "by the plan this run does not fit into memory" in done.stderr
    assert "cheapest changes that fit: technique=lora" in done.stderr
    assert not (wide.folder / "runs" / "refused" / "plan.json").exists()


@pytest.mark.slow
def test_a_probe_of_what_does_not_fit_is_refused_before_it_is_tried(wide: Place) -> None:
    settings = (f"train.{key}={value}" for key, value in {**ONE_PACK, "precision": "float32"}.items())
    words = ("plan", "--probe", "--model", str(wide.model), "--data", "rows.jsonl", "technique=full")
    done = tunesmith(wide, *words, "evaluate.rows=2", "train.activation_checkpointing=false", *settings)
    assert done.returncode == 19, done.stderr
    assert "by the plan this run does not fit into memory" in done.stderr
    assert "cheapest changes that fit: technique=lora" in done.stderr


@pytest.mark.slow
def test_a_worker_makes_the_change_that_fits_where_it_is_asked_to(wide: Place) -> None:
    evaluate = {"rows": 2, "max_new_tokens": "auto", "few_shot": "auto"}
    recipe = {"data": {"train": "rows.jsonl"}, "technique": "full", "evaluate": evaluate, "train": ONE_PACK}
    run = wide.run("changed", {**recipe, "fit": "auto"})
    worker = run.start()
    # What it is then trained with is what counts here; all those scores take a while.
    worker.until(lambda _: run.folder.resolved.exists())
    worker.kill()
    worker.wait()
    assert run.resolved["technique"]["name"] == "lora"
    assert json.loads(run.folder.plan.read_text())["fits"]
    assert "memory is not enough otherwise" in run.warnings["resource.fit"]


@pytest.fixture
def too_small(place: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A run on a machine that has not quite the memory that the plan wants, up to its planning."""

    def plan(name: str, fit: str, again: bool | str = False, devices: int = 1) -> Any:
        train = {"activation_checkpointing": again, "devices": devices}
        run = place.run(name, {**RECIPE, "fit": fit, "train": train})
        prepared, resolved, teller = prepared_run(run)
        monkeypatch.setattr(planned, "_hardware", lambda _: machine_of_bytes(10**12))
        planned.plan_run(run.folder, prepared, resolved, teller, is_new=True)
        needed = json.loads(run.folder.plan.read_text())["memory"]["host"]
        run.folder.plan.unlink()
        monkeypatch.setattr(planned, "_hardware", lambda _: machine_of_bytes(int(needed)))
        return run, lambda: planned.plan_run(run.folder, prepared, resolved, teller, is_new=True)

    return plan


def test_what_does_not_fit_is_refused_with_ways_that_do(too_small: Callable[..., Any]) -> None:
    run, plan = too_small("too-large", "refuse")
    with pytest.raises(ResourceError) as caught:
        plan()
    assert caught.value.code == "resource.plan"
    ways = (caught.value.hint or "").partition("cheapest changes that fit: ")[2].split("; ")[:-1]
    assert 1 <= len(ways) <= 3
    assert all(re.match(r"(technique|train\.\w+|strategy)=\S+", way) for way in ways)
    assert not run.folder.plan.exists()


def test_the_cheapest_change_is_made_where_the_recipe_asks_for_it(too_small: Callable[..., Any]) -> None:
    run, plan = too_small("changed", "auto")
    resolved = plan()
    assert json.loads(run.folder.plan.read_text())["fits"]
    changed = [key for key, reason in resolved.reasons.items() if reason.startswith("fit: auto")]
    assert changed
    assert "memory is not enough otherwise" in run.warnings["resource.fit"]


def test_the_plan_of_a_run_has_the_price_of_this_machine(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    price = {"price_per_hour": 3.6, "currency": "EUR", "price_date": "2026-11-01", "price_source": "our accounting"}
    (tmp_path / "price.yaml").write_text(json.dumps(price))
    monkeypatch.setenv("TUNESMITH_PRICE", str(tmp_path / "price.yaml"))
    run = place.run("priced", RECIPE)
    prepared, resolved, teller = prepared_run(run)
    planned.plan_run(run.folder, prepared, resolved, teller, is_new=True)
    time = json.loads(run.folder.plan.read_text())["time"]
    assert time["price"] == pytest.approx(3.6 * time["total_seconds"] / 3600)
    assert time["currency"] == "EUR"


def test_what_the_recipe_leaves_open_is_chosen_so_that_it_fits(too_small: Callable[..., Any]) -> None:
    run, plan = too_small("again", "refuse", "auto")
    assert plan().activation_checkpointing is True
    assert json.loads(run.folder.plan.read_text())["fits"]


def test_an_open_strategy_is_the_first_that_fits(too_small: Callable[..., Any]) -> None:
    """Of this tiny model no strategy saves enough by itself, since messages take what parts save."""
    run, plan = too_small("shared", "refuse", "auto", devices=2)
    resolved = plan()
    tried = resolved.reasons["strategy"]
    assert tried.startswith("auto: the first that fits by the plan: ddp ")
    assert "fsdp" in tried
    assert (resolved.strategy, resolved.activation_checkpointing) == ("ddp", True)
    assert json.loads(run.folder.plan.read_text())["fits"]


def test_a_dry_run_shows_the_strategy_that_the_run_would_take(place: Place) -> None:
    rows = str(place.folder / "rows.csv")
    recipe = {**RECIPE, "data": {"train": rows, "validation": 0.25}, "train": {"devices": 2}}
    shown = json.loads(place.stage("audit", {}, recipe).done().folder.resolved.read_text())["host"]["strategy"]
    assert shown["value"] == "ddp"
    assert shown["reason"].startswith("auto: the first that fits by the plan: ddp ")


def test_who_wants_to_try_may(too_small: Callable[..., Any]) -> None:
    run, plan = too_small("tried", "try")
    plan()
    assert not json.loads(run.folder.plan.read_text())["fits"]
    assert "not enough" in run.warnings["resource.plan"]


def prepared_run(run: RealRun) -> Any:
    recipe = load_recipe(run.folder.recipe)
    recipe = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"train": str(run.place.folder / "rows.csv")})}
    )
    teller = Teller(open_events(run.folder.events))
    prepared = prepare(recipe, load_data(recipe.data, recipe.train.seed), run.folder.path.parent, teller)
    return prepared, resolve_run(prepared), teller
