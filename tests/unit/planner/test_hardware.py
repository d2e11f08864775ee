"""Hardware profiles: those that ship, those of a file, and that of this machine."""

from __future__ import annotations

import datetime
import re

import pytest
import yaml

from tunesmith.errors import UsageError
from tunesmith.planner.hardware import FRAMEWORK_BYTES, known_hardware, load_hardware, this_machine
from tunesmith.recipe.facts import HostFacts

OWN = {
    "id": "ours",
    "name": "Our cluster",
    "device": "cuda",
    "device_memory_bytes": "80e9",
    "matmul_flops_per_second": {"float32": "19.5e12", "bfloat16": "312e12"},
    "source": "a data sheet",
}
PRICE = {"price_per_hour": 1.79, "currency": "EUR", "price_date": "2026-11-01", "price_source": "an offer"}


@pytest.fixture
def profile(tmp_path):
    def write(**changes):
        path = tmp_path / "ours.yaml"
        content = {key: value for key, value in {**OWN, **changes}.items() if value is not None}
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize("hardware", known_hardware().values(), ids=lambda one: one.id)
def test_every_shipped_profile_says_where_it_is_from_and_has_no_price(hardware):
    assert hardware.source
    assert hardware.price_per_hour is None
    assert hardware.flops_per_second("bfloat16") >= hardware.flops_per_second("float32") > 0
    assert hardware.host_facts().device == hardware.device
    assert load_hardware(hardware.id) == hardware


def test_the_common_ones_are_there():
    wanted = "laptop-2-cores laptop-8-cores server-32-cores rtx-3090 rtx-4090 a10g l4 t4 v100-32gb a100-40gb a100-80gb"
    assert {*wanted.split(), "h100-80gb", "h200-141gb", "mi300x"} <= known_hardware().keys()


def test_machines_have_the_host_memory_that_was_published_and_cards_have_none():
    for one in known_hardware().values():
        assert (one.host_memory_bytes is None) == (one.device == "cuda" and one.devices is None), one.id
        if one.device == "cuda" and one.host_memory_bytes:
            assert re.search(r"20\d\d", one.source), one.id


def test_figures_are_those_of_dense_products():
    assert load_hardware("a100-80gb").flops_per_second("bfloat16") == 312e12
    assert load_hardware("h100-80gb").flops_per_second("bfloat16") == 989e12
    assert load_hardware("l4").flops_per_second("bfloat16") == 121e12
    assert load_hardware("l40s").flops_per_second("bfloat16") == 362e12


def test_a_chip_without_bfloat16_computes_it_as_it_can():
    t4 = load_hardware("t4")
    assert t4.flops_per_second("bfloat16") == t4.flops_per_second("float32") == 8.1e12
    assert t4.host_facts().fast_dtype == "float32"
    assert load_hardware("a100-80gb").host_facts().fast_dtype == "bfloat16"


def test_a_file_is_a_profile(profile):
    found = load_hardware(profile(devices=8, memory_bandwidth="2.039e12", **PRICE))
    assert found.device_memory_bytes == 80 * 10**9
    assert found.flops_per_second("bfloat16") == 312e12
    assert (found.devices, found.currency, found.price_date) == (8, "EUR", datetime.date(2026, 11, 1))
    assert found.framework == FRAMEWORK_BYTES["cuda"]


def test_an_unknown_name_lists_those_that_there_are(tmp_path):
    with pytest.raises(UsageError) as caught:
        load_hardware(str(tmp_path / "h300"))
    assert caught.value.code == "usage.hardware_unknown"
    assert all(name in str(caught.value) for name in known_hardware())


def test_all_that_is_wrong_with_a_file_is_told_at_once(profile):
    path = profile(name=None, device="tpu", matmul_flops_per_second={"float32": -1}, speed=3, reached=1.5)
    with pytest.raises(UsageError) as caught:
        load_hardware(path)
    assert caught.value.code == "usage.hardware_file"
    places = {problem.place for problem in caught.value.problems}
    assert places == {"name", "device", "matmul_flops_per_second.float32", "speed", "reached"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device_memory_bytes": None}, "device_memory_bytes"),
        ({"device": "cpu"}, "device_memory_bytes"),
        ({"device": "cpu", "device_memory_bytes": None}, "host_memory_bytes"),
        ({"price_per_hour": 1.5}, "price_date"),
        ({"matmul_flops_per_second": {}}, "at least 1"),
    ],
)
def test_what_does_not_go_together_is_refused(profile, changes, words):
    with pytest.raises(UsageError, match=words) as caught:
        load_hardware(profile(**changes))
    assert caught.value.code == "usage.hardware_file"


@pytest.mark.parametrize("content", ["- one\n- two\n", "{", "\xff\xfe"])
def test_a_file_that_is_no_profile_at_all_is_refused(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        load_hardware(str(path))
    assert caught.value.code == "usage.hardware_file"


def test_this_machine_is_what_was_measured():
    host = HostFacts(cores=2, memory_bytes=24 * 10**9, matmul_flops_per_second=290e9, processor="A processor")
    found = this_machine(host)
    assert (found.id, found.name, found.cores) == ("this-machine", "A processor", 2)
    assert found.host_facts() == host
    with_gpu = HostFacts(64, 512 * 10**9, "cuda", "bfloat16", 400e12, 80 * 10**9)
    assert this_machine(with_gpu).host_facts() == with_gpu
    # Of float32 no more is known than that it lost the race.
    assert this_machine(with_gpu).flops_per_second("float32") == pytest.approx(400e12 / 1.3)


def test_a_machine_that_was_not_measured_is_taken_for_a_laptop():
    assert this_machine(HostFacts(2, 8 * 10**9)).flops_per_second("float32") == 200e9
