from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tunesmith.engine.checkpoint import Checkpoints, CheckpointState
from tunesmith.engine.schedule import Clock
from tunesmith.errors import CheckpointError, OutputError
from tunesmith.strategies.tensors import OneByOne


def state(step: int) -> CheckpointState:
    return CheckpointState(
        step=step,
        clock=Clock(total_steps=50, since_step=3, progress=1 / 3),
        elapsed_seconds=1.25,
        tokens=1000,
        trained_tokens=600,
        cursor={"seed": 7, "step": step},
        identity={"seed": 7, "clip": None},
        versions={"torch": "2"},
        weights={"layer.weight": torch.arange(6.0).reshape(2, 3) + step},
        optimizer={"exp_avg.layer.weight": torch.ones(2, 3), "step.layer.weight": torch.tensor(4.0)},
        random={"torch": torch.get_rng_state()},
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    saved = state(12)
    path = checkpoints.save(saved)
    assert path == tmp_path / "step-00000012"
    assert checkpoints.latest() == path
    loaded = checkpoints.load(path)
    for name, value in vars(saved).items():
        if name in ("weights", "optimizer", "random"):
            found = getattr(loaded, name)
            assert found.keys() == value.keys()
            assert all(
                torch.equal(found[key], tensor) and found[key].dtype == tensor.dtype for key, tensor in value.items()
            )
        else:
            assert getattr(loaded, name) == value
    assert set(files_of(path)) == {
        "weights.safetensors",
        "optimizer.safetensors",
        "random.safetensors",
        "state.json",
        "manifest.json",
    }


def one_by_one(count: int, numbers: int) -> Iterator[tuple[str, torch.Tensor]]:
    for index in range(count):
        yield f"layer-{index}.weight", torch.full((numbers,), float(index))


def test_tensors_that_come_one_after_another_lie_in_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.engine.checkpoint.FILE_BYTES", 100)
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(replace(state(3), weights=OneByOne(one_by_one(5, 12))))
    assert {name for name in files_of(path) if name.startswith("weights")} == {
        "weights.safetensors",
        "weights-2.safetensors",
        "weights-3.safetensors",
    }
    found = dict(checkpoints.load(path).weights.items())
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        name: tensor.tolist() for name, tensor in one_by_one(5, 12)
    }


def test_a_tensor_larger_than_a_file_has_one_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.engine.checkpoint.FILE_BYTES", 10)
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(replace(state(3), weights=OneByOne(one_by_one(2, 12))))
    assert len(checkpoints.load(path).weights.items()) == 2
    assert not (path / "weights-3.safetensors").exists()


@pytest.mark.parametrize("change", ["flipped", "gone", "not named"])
def test_a_further_file_that_is_not_whole_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr("tunesmith.engine.checkpoint.FILE_BYTES", 10)
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(replace(state(3), weights=OneByOne(one_by_one(2, 12))))
    further = path / "weights-2.safetensors"
    if change == "flipped":
        flip(further)
    elif change == "gone":
        further.unlink()
    else:
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["files"]["../weights-2.safetensors"] = manifest["files"].pop("weights-2.safetensors")
        (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(path)
    assert "weights-2.safetensors" in str(caught.value.problems[0].place) + str(caught.value.problems[0].value)


def test_a_checkpoint_of_the_first_format_is_read(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(state(1))
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))
    assert checkpoints.load(path).step == 1


def test_before_the_first_step_the_optimizer_has_no_state(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(replace(state(0), optimizer={}))
    assert checkpoints.load(path).optimizer == {}


def test_no_checkpoints_at_all(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "never-made").latest() is None
    assert Checkpoints(tmp_path).latest() is None


def test_only_the_newest_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 10, 100_000_000):
        checkpoints.save(state(step))
    assert checkpoints.names() == ["step-00000010", "step-100000000"]
    assert {path.name for path in tmp_path.iterdir()} == set(checkpoints.names())


def test_the_last_good_one_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(state(1))
    before = files_of(tmp_path)

    def broken(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OutputError) as caught:
        checkpoints.save(state(2))
    assert caught.value.code == "output.disk_full"
    assert files_of(tmp_path) == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink], ids=["cut", "flipped", "missing"])
@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"])
def test_a_broken_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, file: str, damage: Callable[[Path], None]
) -> None:
    checkpoints = Checkpoints(tmp_path)
    good, bad = checkpoints.save(state(1)), checkpoints.save(state(2))
    damage(bad / file)
    found = checkpoints.find()
    assert found.path == good
    assert found.broken == (bad,)
    assert [problem.place for problem in found.problems] == [str(bad / file)]
    with pytest.raises(CheckpointError, match=file):
        checkpoints.load(bad)


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b'{"format": 1}', b'{"format": 1, "files": {"state.json": 3}}']
)
def test_a_broken_manifest(tmp_path: Path, content: bytes | None) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(state(1))
    (path / "manifest.json").unlink() if content is None else (path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.latest()
    assert "manifest" in str(caught.value)
    assert "start over" in str(caught.value.hint)


def test_when_none_is_whole_each_is_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        flip(checkpoints.save(state(step)) / "weights.safetensors")
    with pytest.raises(CheckpointError) as caught:
        checkpoints.find()
    assert caught.value.code == "checkpoint.broken"
    assert [Path(problem.place or "").parent.name for problem in caught.value.problems] == [
        "step-00000002",
        "step-00000001",
    ]


def test_a_file_outside_the_manifest_is_not_read(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(state(1))
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["files"]["weights.safetensors"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="not in the manifest"):
        checkpoints.load(path)


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(state(1))
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match="later version"):
        checkpoints.load(path)


def test_leftovers_do_not_count_and_are_cleaned(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))
    (tmp_path / ".step-00000002.scratch-abc").mkdir()
    (tmp_path / ".step-00000002.scratch-abc" / "weights.safetensors").write_bytes(b"half")
    (tmp_path / "notes").mkdir()
    assert checkpoints.names() == ["step-00000001"]
    checkpoints.clean()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "step-00000001"]


def test_set_aside_makes_room(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for _ in range(2):
        aside = checkpoints.set_aside(checkpoints.save(state(5)))
    assert aside.name == "broken-step-00000005"
    assert checkpoints.names() == []
    checkpoints.save(state(5))
