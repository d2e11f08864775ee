"""Plans: whether they fit, how much larger they could be, and that they come back from JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tunesmith.errors import UsageError
from tunesmith.planner.memory import predict_memory
from tunesmith.planner.plan import make_plan, plan_from_json


@pytest.fixture
def plan_of(starter, data, processor, settled):
    def make(*settings, hardware=processor, shape=starter, **more):
        return make_plan(shape, settled(*settings, hardware=hardware, shape=shape), data, hardware, **more)

    return make


def small(hardware, gigabytes):
    return hardware.model_copy(update={"host_memory_bytes": int(gigabytes * 10**9)})


def test_a_plan_says_what_it_is_of(plan_of, starter):
    plan = plan_of("technique=lora")
    assert (plan.model, plan.hardware, plan.technique) == ("smollm2-135m-instruct", "two-cores", "lora")
    assert (plan.strategy, plan.devices, plan.precision) == ("single", 1, "float32")
    assert plan.parameters == starter.parameters
    assert plan.memory.trained_parameters == 4_884_480
    assert plan.fits
    assert plan.headroom > 0


def test_a_plan_that_does_not_fit_says_so(plan_of, processor):
    plan = plan_of("technique=full", hardware=small(processor, 4))
    assert not plan.fits
    assert plan.headroom < 0
    nothing = plan_of("technique=full", hardware=small(processor, 2))
    assert (nothing.largest_micro_batch, nothing.longest_context) == (None, None)


def test_the_largest_pack_fits_and_a_larger_one_does_not(plan_of, starter, data, processor, settled):
    plan = plan_of()
    assert plan.largest_micro_batch is not None
    for tokens, fits in ((plan.largest_micro_batch, True), (round(plan.largest_micro_batch * 1.02), False)):
        steps = f"train.tokens_per_step={tokens}"
        resolved = settled(steps, f"train.tokens_per_micro_batch={tokens}", hardware=processor)
        assert (predict_memory(starter, resolved, data, processor).headroom(processor) >= 0) is fits


def test_more_memory_holds_longer_rows_up_to_the_model_s_context(plan_of, processor):
    contexts = [plan_of(hardware=small(processor, size)).longest_context for size in (3.5, 4.5, 24)]
    assert contexts == sorted(set(contexts))
    assert contexts[-1] == 8192


def test_a_plan_comes_back_from_json(plan_of):
    plan = plan_of("technique=qlora", estimated_tokens=True)
    assert plan_from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_plan_of_a_later_version_is_refused(plan_of):
    with pytest.raises(UsageError) as caught:
        plan_from_json({**plan_of().to_json(), "version": 2})
    assert caught.value.code == "usage.plan_version"


def test_what_a_plan_leaves_out_is_noted(plan_of, processor, gpu):
    assert any("estimate" in note for note in plan_of(estimated_tokens=True).notes)
    assert any("built model" in note for note in plan_of("technique=osf").notes)
    assert any("no run" in note for note in plan_of().notes)
    known = processor.model_copy(update={"activation_scale": 1.1, "time_scale": 0.9})
    assert plan_of(hardware=known).notes == ()
    hostless = gpu.model_copy(update={"host_memory_bytes": None})
    assert any("its memory is unknown" in note for note in plan_of(hardware=hostless).notes)
    offloads = ("strategy=zero2", "train.devices=2", "train.offload=true")
    for hardware, judged in ((hostless, "whether they are there is unknown"), (gpu, "they are counted")):
        assert any(judged in note for note in plan_of(*offloads, hardware=hardware).notes)


def test_planning_loads_nothing_heavy():
    program = (
        "import sys, tunesmith.planner.plan, tunesmith.planner.alternatives, tunesmith.planner.calibration;"
        "assert not {'torch', 'transformers', 'numpy', 'psutil'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
