"""Plans and advice for this machine, as it was measured and with what is installed on it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from planning_cases import CONFIG, ROWS, facts_of

from tunesmith.catalog.cache import machine_file
from tunesmith.errors import ResourceError, UsageError
from tunesmith.jobs.advice import Advice, advise
from tunesmith.jobs.planning import Planned, plan_recipe
from tunesmith.recipe.facts import HostFacts
from tunesmith.recipe.load import apply_overrides, parse_recipe
from tunesmith.recipe.schema import Recipe
from tunesmith.runs.atomic import write_json

HOST = HostFacts(cores=2, memory_bytes=24 * 10**9, matmul_flops_per_second=200e9, processor="Two cores of ours")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that was measured, and a model of which the numbers are there."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    machine_file().parent.mkdir(parents=True)
    write_json(machine_file(), asdict(HOST))
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model" / "config.json", CONFIG)
    return tmp_path


@pytest.fixture
def plan(place: Path) -> Callable[..., Planned]:
    def make(*settings: str, hardware: str | None = None) -> Planned:
        return plan_recipe(recipe_of(place, *settings), place / "runs", hardware, lambda: facts_of(ROWS))

    return make


@pytest.fixture
def propose(place: Path) -> Callable[..., Advice]:
    def make(*settings: str, hardware: str | None = None) -> Advice:
        return advise(recipe_of(place, *settings), place / "runs", lambda: facts_of(ROWS), hardware=hardware)

    return make


def recipe_of(place: Path, *settings: str) -> Recipe:
    given = {"model": str(place / "model"), "data": {"train": str(place / "rows.jsonl")}}
    return parse_recipe(apply_overrides(given, settings))


def settings_of(planned: Planned) -> set[str]:
    return {setting for one in (*planned.others, *planned.changes) for setting in one.settings}


def without(monkeypatch: pytest.MonkeyPatch, *libraries: str) -> None:
    """As if they were not installed."""
    for library in libraries:
        monkeypatch.setitem(sys.modules, library, None)


SHARED = ("train.devices=2", "strategy=ddp")
ZERO = {"strategy=zero1", "strategy=zero2", "strategy=zero3"}


def test_a_plan_leaves_out_what_is_not_installed_here_and_says_so(plan, monkeypatch) -> None:
    assert settings_of(plan(*SHARED)) >= ZERO | {"technique=qlora"}
    without(monkeypatch, "bitsandbytes", "deepspeed")
    planned = plan(*SHARED)
    assert not settings_of(planned) & (ZERO | {"technique=qlora"})
    assert "strategy=fsdp" in settings_of(planned)
    assert {line.partition(" ")[0] for line in planned.left_out} == ZERO | {"technique=qlora"}
    assert all("pip install 'tunesmith[" in line for line in planned.left_out)
    assert planned.to_json()["left_out"] == list(planned.left_out)
    assert not any("strategy" in line for line in plan().left_out), "one process shares with nobody"


def test_a_change_that_is_not_installed_here_is_none(plan, monkeypatch) -> None:
    tight = ("technique=full", *SHARED, "train.activation_checkpointing=false", "evaluate.max_new_tokens=8")
    write_json(machine_file(), {**asdict(HOST), "memory_bytes": 7 * 10**9})
    assert not plan(*tight).plan.fits
    without(monkeypatch, "bitsandbytes", "deepspeed")
    assert plan(*tight).changes
    assert not settings_of(plan(*tight)) & (ZERO | {"technique=qlora"})


def test_what_another_machine_has_is_not_known_here(plan, place, monkeypatch) -> None:
    without(monkeypatch, "bitsandbytes", "deepspeed")
    for planned in (
        plan(*SHARED, hardware="laptop-2-cores"),
        plan(*SHARED, "executor={name: kubernetes, image: ours}"),
    ):
        assert settings_of(planned) >= ZERO | {"technique=qlora"}
        assert planned.left_out == ()


def test_advice_leaves_out_what_is_not_installed_here_and_says_so(propose, monkeypatch) -> None:
    assert "QLoRA" in {one.title for one in propose().candidates}
    without(monkeypatch, "bitsandbytes")
    for advice in (propose(), propose("technique=qlora"), propose("technique=qdora")):
        assert not any(one.title.lower() in ("qlora", "qdora") for one in advice.candidates)
        assert any(line.startswith("QLoRA needs the package bitsandbytes") for line in advice.refused)


def test_where_nothing_fits_what_is_not_installed_is_told_too(propose, monkeypatch) -> None:
    without(monkeypatch, "bitsandbytes")
    write_json(machine_file(), {**asdict(HOST), "memory_bytes": 10**9})
    with pytest.raises(ResourceError, match="QLoRA needs the package bitsandbytes"):
        propose()


PRICE = "price_per_hour: 36e-1\ncurrency: EUR\nprice_date: 2026-11-01\nprice_source: our accounting\n"


@pytest.fixture
def price(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the user's price is in."""
    (place / "price.yaml").write_text(PRICE)
    monkeypatch.setenv("TUNESMITH_PRICE", str(place / "price.yaml"))
    return place / "price.yaml"


def test_this_machine_has_the_price_that_its_user_gives_and_what_was_measured_of_it(plan, propose, price) -> None:
    planned = plan()
    assert planned.plan.time.price == pytest.approx(3.6 * planned.plan.time.total_seconds / 3600)
    assert (planned.plan.time.currency, planned.hardware.price_source) == ("EUR", "our accounting")
    assert planned.hardware.matmul_flops_per_second == {"float32": HOST.matmul_flops_per_second}
    assert all(one.price is not None for one in planned.others)
    assert "EUR" in propose().text


def test_without_a_price_advice_says_how_this_machine_gets_one(place) -> None:
    advice = advise(recipe_of(place), place / "runs", lambda: facts_of(ROWS), wish="cost")
    assert any("no price is configured" in one and "(TUNESMITH_PRICE)" in one for one in advice.reasons)


def test_the_price_of_this_machine_is_not_that_of_another(plan, price) -> None:
    assert plan(hardware="laptop-2-cores").plan.time.price is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (PRICE + "cores: 64\n", "cores"),
        (PRICE.replace("currency: EUR\n", ""), "currency missing"),
        (PRICE.replace("36e-1", "cheap"), "price_per_hour"),
        ("a price", "no keys"),
        (None, "cannot be read"),
    ],
)
def test_a_price_file_that_is_none_is_refused(plan, price, text, told) -> None:
    if text is None:
        price.unlink()
    else:
        price.write_text(text)
    with pytest.raises(UsageError, match=told) as caught:
        plan()
    assert caught.value.code == "usage.price_file" or caught.value.problems[0].code == "usage.price_file"
    assert str(price) in str(caught.value)


def test_this_machine_can_be_named(plan, price) -> None:
    assert plan(hardware="this-machine") == plan()
