"""One list of checks for strategies of several processes: engaged, same trajectory, checkpoints, death of a rank.

Each strategy has one group of processes for most of the list, so that the suite stays within its time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import strategy_ranks
import torch
from safetensors.torch import load_file, save_file
from strategy_ranks import PAUSE_AFTER, STEPS, TRAININGS, pausing, train_one
from technique_cases import QUIET
from tiny_training import packed_model

from tunesmith.errors import UsageError
from tunesmith.strategies.table import STRATEGIES, make_strategy

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]
# What each rank holds only a part of.
CUT = {
    "ddp": (),
    "zero1": ("moments",),
    "zero2": ("gradients", "moments"),
    "zero3": ("weights", "gradients", "moments"),
    "fsdp": ("weights", "gradients", "moments"),
}
OF_SEVERAL = tuple(CUT)
RANKS = 2


def dtype_of(strategy: str) -> str:
    """DeepSpeed takes no double precision, in which the others show that they compute the same."""
    return "float32" if strategy.startswith("zero") else "float64"


_SECONDS = 240


@dataclass(frozen=True)
class Found:
    """What the ranks of one group wrote."""

    folder: Path

    def training(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / f"{name}.safetensors")

    def memory(self, rank: int) -> dict[str, int]:
        found: dict[str, int] = json.loads((self.folder / f"memory-{rank}.json").read_text())
        return found


def start(strategy: str, folder: Path, model: Path, *, world: int, **more: Any) -> list[subprocess.Popen[bytes]]:
    folder.mkdir(parents=True)
    job = {
        "strategy": strategy,
        "world": world,
        "model": str(model),
        "out": str(folder),
        "dtype": dtype_of(strategy),
        **more,
    }
    job["store"] = str(folder / "store")
    (folder / "job.json").write_text(json.dumps(job))
    script = Path(strategy_ranks.__file__)
    path = os.pathsep.join([str(script.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(script), str(folder / "job.json"), str(rank)],
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        for rank in range(world)
    ]


def run_ranks(strategy: str, folder: Path, model: Path, *, world: int = RANKS, **more: Any) -> Found:
    ranks = start(strategy, folder, model, world=world, **more)
    errors = [rank.communicate(timeout=_SECONDS)[1].decode()[-3000:] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * world, "\n".join(errors)
    return Found(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "base"
    packed_model("llama", folder)
    return folder


@pytest.fixture(scope="module")
def all_alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Every training on one process in a type of numbers; the paused one whole, and `half` as it was paused."""

    @cache
    def alone(dtype: str) -> Path:
        folder = tmp_path_factory.mktemp("alone")
        for name in TRAININGS:
            found = train_one(name, make_strategy("single", "cpu"), model, folder / name, dtype)
            save_file(found, folder / f"{name}.safetensors")
        train_one("paused", make_strategy("single", "cpu"), model, folder / "half", dtype, read_wish=pausing())
        return folder

    return alone


@pytest.fixture(scope="module")
def alone(group: tuple[str, Found], all_alone: Callable[[str], Path]) -> Path:
    """What the trainings of the group give on one process."""
    return all_alone(dtype_of(group[0]))


# Stages 1 and 2 of DeepSpeed go the way of stage 3 but for the weights.
@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) if name in ("zero1", "zero2") else name for name in OF_SEVERAL],
)
def group(request: pytest.FixtureRequest, model: Path, all_alone: Any, tmp_path_factory: Any) -> tuple[str, Found]:
    """The trainings under a strategy on two ranks, and one that begins where one process stopped."""
    folder = tmp_path_factory.mktemp(request.param)
    resumed = folder / "from-one"
    shutil.copytree(all_alone(dtype_of(request.param)) / "half", resumed)
    return request.param, run_ranks(
        request.param, folder / "ranks", model, trainings=list(TRAININGS), resume=str(resumed)
    )


# Norms of the model compute in single precision, so that another order of packs shows in the seventh digit. In single
# precision alone AdamW makes much of the last digits of gradients near zero.
_TOLERANCE = {"rtol": 1e-5, "atol": 1e-7}
_SINGLE = {"rtol": 1e-3, "atol": 1e-5}


def require_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], strategy: str) -> None:
    assert found.keys() == expected.keys()
    tolerance = _SINGLE if strategy.startswith("zero") else _TOLERANCE
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def test_every_strategy_is_in_the_list() -> None:
    assert set(STRATEGIES) == {"single", *OF_SEVERAL}


@pytest.mark.parametrize("name", [name for name in TRAININGS if name != "paused"])
def test_the_trajectory_is_that_of_one_process(group: tuple[str, Found], alone: Path, name: str) -> None:
    found = group[1].training(name)
    require_same(found, load_file(alone / f"{name}.safetensors"), group[0])
    assert float(found["losses"].abs().sum()) > 0


@pytest.mark.parametrize("name", ["lora", "full", "watched"])
def test_moments_are_kept_whole(group: tuple[str, Found], alone: Path, name: str) -> None:
    checkpoints = sorted(path.name for path in (alone / name / "checkpoints").iterdir())
    assert checkpoints[-1] == f"step-{STEPS:08d}"
    for checkpoint in checkpoints:
        found, expected = (
            load_file(folder / name / "checkpoints" / checkpoint / "optimizer.safetensors")
            for folder in (group[1].folder, alone)
        )
        require_same(found, expected, group[0])


def test_time_ends_all_ranks_at_one_step(group: tuple[str, Found]) -> None:
    (last,) = sorted((group[1].folder / "hurried" / "checkpoints").iterdir())[-1:]
    assert 0 < int(last.name.removeprefix("step-")) < 100_000


def test_each_rank_holds_a_part_of_what_is_cut(group: tuple[str, Found]) -> None:
    strategy, found = group
    for rank in range(RANKS):
        memory = found.memory(rank)
        for kind, times in (("weights", 1), ("gradients", 1), ("moments", 2)):
            share = memory[f"{kind}_bytes"] / (times * memory["whole"])
            if kind in CUT[strategy]:
                # A third of the numbers of so small a model are in weights that DeepSpeed leaves whole.
                assert share < (0.75 if (strategy, kind) == ("zero3", "weights") else 1.2 / RANKS), kind
            else:
                assert share == pytest.approx(1), kind
        copies = memory["copies_bytes"] / memory["whole"]
        assert copies == 0 or (strategy.startswith("zero") and copies < 1.2 / RANKS)


def test_what_several_ranks_paused_one_process_finishes(
    group: tuple[str, Found], model: Path, alone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "paused"
    shutil.copytree(group[1].folder / "paused", folder)
    assert len(list((folder / "checkpoints").iterdir())) == 1
    found = train_one("paused", make_strategy("single", "cpu"), model, folder, dtype_of(group[0]))
    require_same(found, load_file(alone / "paused.safetensors"), group[0])


def test_what_one_process_paused_several_ranks_finish(group: tuple[str, Found], alone: Path) -> None:
    found = group[1].training("resumed")
    require_same(found, load_file(alone / "paused.safetensors"), group[0])


@pytest.mark.slow
@pytest.mark.parametrize("world", [RANKS, 4])
def test_what_several_ranks_paused_as_many_or_more_finish(
    group: tuple[str, Found], world: int, model: Path, alone: Path, tmp_path: Path
) -> None:
    strategy, paused = group
    folder = tmp_path / "paused"
    shutil.copytree(paused.folder / "paused", folder)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"step-{PAUSE_AFTER:08d}"]
    found = run_ranks(strategy, tmp_path / "ranks", model, world=world, trainings=[], resume=str(folder))
    require_same(found.training("resumed"), load_file(alone / "paused.safetensors"), strategy)
    if world == RANKS:
        # As many ranks that were never stopped: nothing may be lost on the way, to the last bit.
        whole = run_ranks(strategy, tmp_path / "whole", model, trainings=[], resume=str(tmp_path / "new"))
        for name, tensor in whole.training("resumed").items():
            assert torch.equal(found.training("resumed")[name], tensor), name


@pytest.mark.slow
@pytest.mark.parametrize("strategy", OF_SEVERAL)
@pytest.mark.parametrize("world", [3, 4])
def test_other_numbers_of_ranks_go_on_from_there_too(
    strategy: str, world: int, model: Path, all_alone: Callable[[str], Path], tmp_path: Path
) -> None:
    resumed, alone = tmp_path / "from-one", all_alone(dtype_of(strategy))
    shutil.copytree(alone / "half", resumed)
    found = run_ranks(
        strategy, tmp_path / "ranks", model, world=world, trainings=["lora", "one pack"], resume=str(resumed)
    )
    require_same(found.training("resumed"), load_file(alone / "paused.safetensors"), strategy)
    for name in ("lora", "one pack"):
        require_same(found.training(name), load_file(alone / f"{name}.safetensors"), strategy)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [name for name in OF_SEVERAL if "weights" in CUT[name]])
def test_full_tuning_with_activations_computed_again_is_cut_anew(strategy: str, model: Path, tmp_path: Path) -> None:
    """Paused by two ranks, finished by three: nearly all that is saved is in parts of another size then."""
    name = "paused full"
    expected = train_one(name, make_strategy("single", "cpu"), model, tmp_path / "alone", dtype_of(strategy))
    paused = run_ranks(strategy, tmp_path / "two", model, trainings=[name]).folder / name
    assert [path.name for path in (paused / "checkpoints").iterdir()] == [f"step-{PAUSE_AFTER:08d}"]
    found = run_ranks(strategy, tmp_path / "three", model, world=3, trainings=[], resume=str(paused), resumed=name)
    require_same(found.training("resumed"), expected, strategy)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [name for name in OF_SEVERAL if CUT[name]])
def test_what_is_cut_can_lie_in_the_host_s_memory(
    strategy: str, model: Path, all_alone: Callable[[str], Path], tmp_path: Path
) -> None:
    """Here it lies there anyway; the way of the gradients and weights is another one all the same."""
    names = ["lora", "full", "padded"]
    alone = all_alone(dtype_of(strategy))
    shutil.copytree(alone / "half", tmp_path / "from-one")
    found = run_ranks(
        strategy, tmp_path / "ranks", model, trainings=names, offload=True, resume=str(tmp_path / "from-one")
    )
    for name in names:
        require_same(found.training(name), load_file(alone / f"{name}.safetensors"), strategy)
    require_same(found.training("resumed"), load_file(alone / "paused.safetensors"), strategy)


# All of them end in the same way.
@pytest.mark.parametrize(
    "strategy",
    ["ddp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fsdp", "zero1", "zero2", "zero3"))],
)
def test_a_rank_that_dies_stops_the_others_within_seconds(strategy: str, model: Path, tmp_path: Path) -> None:
    ranks = start(strategy, tmp_path / "ranks", model, world=RANKS, dies=True)
    assert ranks[1].wait(timeout=_SECONDS) == 9
    ranks[1].communicate()
    died = time.monotonic()
    _, error = ranks[0].communicate(timeout=60)
    assert ranks[0].returncode != 0
    assert time.monotonic() - died < 20
    assert b"Error" in error


@pytest.mark.parametrize("strategy", OF_SEVERAL)
def test_a_process_alone_is_told_so(strategy: str) -> None:
    with pytest.raises(UsageError, match="started alone"):
        make_strategy(strategy, "cpu")


def test_pauses_come_in_the_middle() -> None:
    assert 0 < PAUSE_AFTER < STEPS
