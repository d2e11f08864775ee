"""What every form of export must do. A form that is missing from the suite fails it.

Models are the tiny ones; the worker is the real one, and so are llama.cpp and ONNX Runtime.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from real_worker import Place, RealRun, write_labelled
from safetensors.torch import load_file, save_file

from tunesmith.errors import ModelError
from tunesmith.export.form import Options
from tunesmith.export.limits import LIMITS, SCORE_LIMITS
from tunesmith.export.process import export_model
from tunesmith.export.source import Source
from tunesmith.export.table import SCORE_FORMS, TEXT_FORMS
from tunesmith.models.load import load_tokenizer
from tunesmith.pipeline.export_rows import rows_of_samples
from tunesmith.recipe.exports import PRECISIONS, TARGETS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT asks for it
    pytest.mark.filterwarnings("ignore:.*legacy TorchScript-based ONNX export:DeprecationWarning"),
]


def _damage_safetensors(folder: Path) -> None:
    (path,) = folder.glob("*.safetensors")
    tensors = {
        name: 3 * tensor if tensor.ndim > 1 and tensor.is_floating_point() else tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


def _damage_tail(name: str) -> Callable[[Path], None]:
    """Turn around the sign bits in a stretch of weights, which every runtime loads without a word."""

    def damage(folder: Path) -> None:
        path = folder / name
        content = bytearray(path.read_bytes())
        start, end = len(content) // 2, len(content) - 64
        for at in range(start, end):
            content[at] ^= 0x80
        path.write_bytes(content)

    return damage


def _damage_graph(folder: Path) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.ndim > 1 and weights.dtype in ("float32", "int8"):
            tensor.CopyFrom(numpy_helper.from_array(weights[::-1].copy(), tensor.name))
    onnx.save(model, folder / "model.onnx")


@dataclass(frozen=True)
class Case:
    """A form with its files, and how weights in them are made wrong without the runtime's noticing.

    ``model`` is the run that is exported. ``slow`` ones start the model builder, which imports for seconds; those that
    are tried ``often`` are killed and run out of disk in the fast suite too.
    """

    to: str
    precision: str
    files: tuple[str, ...]
    damage: Callable[[Path], None]
    model: str = "text"
    target: str | None = None
    slow: bool = False
    often: bool = False


_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_GENAI = ("genai_config.json", "inference_model.json", "model.onnx", "model.onnx.data", *_TOKENIZER)
SUITE = {
    "adapter": Case(
        "adapter", "float32", ("adapter_config.json", "adapter_model.safetensors", *_TOKENIZER), _damage_safetensors
    ),
    "merged": Case("merged", "float32", ("config.json", "model.safetensors", *_TOKENIZER), _damage_safetensors),
    "gguf": Case("gguf", "f16", ("Modelfile", "model.gguf"), _damage_tail("model.gguf"), often=True),
    "onnx": Case("onnx", "fp32", _GENAI, _damage_tail("model.onnx.data"), slow=True),
    "onnx-adapter": Case(
        "onnx-adapter",
        "fp32",
        ("adapters.json", "text.onnx_adapter", *_GENAI),
        _damage_tail("model.onnx.data"),
        slow=True,
    ),
    "head adapter": Case(
        "adapter",
        "float32",
        ("adapter_config.json", "adapter_model.safetensors", "head.json", *_TOKENIZER),
        _damage_safetensors,
        "head",
    ),
    "head merged": Case(
        "merged", "float32", ("config.json", "head.json", "model.safetensors"), _damage_safetensors, "head"
    ),
    "head onnx": Case("onnx", "fp32", ("labels.json", "model.onnx", *_TOKENIZER), _damage_graph, "head", often=True),
    "head onnx vitisai": Case(
        "onnx",
        "qdq-int8",
        ("README.md", "labels.json", "model.onnx", "vitisai_provider_options.json"),
        _damage_graph,
        "head",
        target="vitisai",
    ),
}
ALL = [pytest.param(case, marks=[pytest.mark.slow] if case.slow else [], id=name) for name, case in SUITE.items()]
OFTEN = [pytest.param(case, marks=[] if case.often else [pytest.mark.slow], id=name) for name, case in SUITE.items()]
# The builder takes seconds to import, so the fast suite has it once.
WRITTEN = [
    pytest.param(case, marks=[pytest.mark.slow] if name == "onnx-adapter" else [], id=name)
    for name, case in SUITE.items()
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("exports"), hidden_size=64, head_dim=16)
    write_labelled(place.folder / "rows.csv", 24)
    write_labelled(place.folder / "held.csv", 6, start=60)
    recipe = {"data": {"train": "rows.csv", "validation": "held.csv"}, "technique": {"name": "lora", "rank": 4}}
    place.run("text", {**recipe, "objective": "sft"}).done()
    place.run("head", {**recipe, "objective": "sequence_classification"}).done()
    return place


def stage(place: Place, case: Case, output: Path) -> RealRun:
    request = {"models": [case.model], "to": case.to, "precision": case.precision, "target": case.target}
    return place.stage("export", {**request, "output": str(output), "rows": 4})


def hidden(folder: Path) -> list[str]:
    """What is in a folder, scratch included."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_every_form_is_in_the_suite_and_every_precision_has_a_limit() -> None:
    assert {case.to for case in SUITE.values() if case.model == "text"} == set(TEXT_FORMS) == set(PRECISIONS)
    assert {case.to for case in SUITE.values() if case.model == "head"} == set(SCORE_FORMS)
    assert {case.target for case in SUITE.values()} - {None} == set(TARGETS)
    wanted = {(to, one) for to, precisions in PRECISIONS.items() for one in precisions}
    targeted = set(TARGETS.values())
    assert set(LIMITS) == wanted - targeted
    assert set(SCORE_LIMITS) == {(to, one) for to, one in wanted if to in SCORE_FORMS} - {("onnx", "int4")}


@pytest.mark.parametrize("case", WRITTEN)
def test_it_is_written_and_says_what_the_model_says(place: Place, case: Case, tmp_path: Path) -> None:
    output = tmp_path / "exports" / "one"
    run = stage(place, case, output).done()
    assert hidden(output.parent) == ["one"]
    record = json.loads((output / "export.json").read_text())
    assert set(case.files) <= {path.name for path in output.iterdir()} == {*record["files"], "export.json"}
    assert record["size_bytes"] == sum(entry["bytes"] for entry in record["files"].values())
    check = record["check"]
    assert check["rows_from"] == "held-out rows of the run"
    assert check["rows"] == 4
    assert set(check["metrics"]["exported"]) == set(check["metrics"]["pytorch"]) >= {"accuracy"}
    assert all(speed is None or speed > 0 for speed in check["tokens_per_second"].values())
    told = [event.data for event in run.events if event.type == "artifact"]
    assert told == [{"kind": "export", "path": str(output), "to": case.to, "size_bytes": record["size_bytes"]}]


@pytest.mark.parametrize("case", ALL)
def test_wrong_weights_leave_nothing(place: Place, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(place, case)
    forms: Any = TEXT_FORMS if source.kind == "text" else SCORE_FORMS
    form = forms[case.to]

    def write(source: Source, folder: Path, options: Options) -> dict[str, Any]:
        facts = form.write(source, folder, options)
        case.damage(folder)
        return dict(facts)

    rows = rows_of_samples(source, 4)
    options = Options(case.precision, tmp_path, target=case.target, calibration=rows.calibration)
    monkeypatch.setitem(forms, case.to, replace(form, write=write))
    with pytest.raises(ModelError) as caught:
        export_model(source, case.to, tmp_path / "wrong" / "one", rows.check, options)
    assert caught.value.code == "export.check_failed"
    assert {problem.code for problem in caught.value.problems} <= {"export.diverges", "export.answers"}
    assert hidden(tmp_path / "wrong") == []


@pytest.mark.parametrize("case", OFTEN)
def test_a_killed_export_has_no_name_and_is_swept_up_by_the_next(place: Place, case: Case, tmp_path: Path) -> None:
    output = tmp_path / "one"
    worker = stage(place, case, output).start()
    worker.until(lambda events: any(event.data.get("state") == "exporting" for event in events))
    worker.until(lambda _: any(name.startswith(".one.") for name in hidden(tmp_path)))
    worker.kill()
    assert worker.wait() == -signal.SIGKILL
    assert not output.exists()
    if case.slow:
        return
    stage(place, case, output).done()
    assert hidden(tmp_path) == ["one"]


@pytest.mark.parametrize("case", OFTEN)
def test_a_full_disk_is_told_and_leaves_nothing(place: Place, case: Case, tmp_path: Path) -> None:
    output = tmp_path / "one"
    run = stage(place, case, output)
    assert run.work(file_bytes=20_000) == 14, run.error
    assert run.error["code"] == "output.disk_full"
    assert hidden(tmp_path) == []


def test_a_folder_that_exists_is_not_touched(place: Place, tmp_path: Path) -> None:
    output = tmp_path / "one"
    output.mkdir()
    run = stage(place, SUITE["adapter"], output)
    assert run.work() == 14
    assert run.error["code"] == "output.exists"
    assert hidden(output) == []


def test_rows_of_a_file_take_the_place_of_rows_that_are_gone(place: Place, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(place.folder / "runs" / "text", moved)
    gone = json.loads((moved / "recipe.yaml").read_text())
    gone["data"] = {"train": "nowhere.csv", "validation": 0.1}
    (moved / "recipe.yaml").write_text(json.dumps(gone))
    request = {"models": [str(moved)], "to": "merged", "output": str(tmp_path / "one"), "rows": 4}
    run = place.stage("export", request)
    assert run.work() == 11
    assert run.error["code"] == "export.run_data"
    assert "--data" in run.error["hint"]
    place.stage("export", {**request, "data": "held.csv"}).done()
    record = json.loads((tmp_path / "one" / "export.json").read_text())
    assert record["check"]["rows_from"] == "rows of held.csv"
    assert "accuracy" in record["check"]["metrics"]["exported"]


def test_a_bare_model_is_checked_on_samples_and_that_is_said(place: Place, tmp_path: Path) -> None:
    request = {"models": ["model"], "to": "gguf", "precision": "f16", "output": str(tmp_path / "one"), "rows": 3}
    place.stage("export", request).done()
    check = json.loads((tmp_path / "one" / "export.json").read_text())["check"]
    assert "come with Tunesmith" in check["rows_from"]
    assert check["metrics"] == {"exported": {}, "pytorch": {}}
    assert check["rows"] == 3


def source_of(place: Place, case: Case) -> Source:
    from tunesmith.catalog.heads import read_head

    adapter = place.folder / "runs" / case.model / "adapter"
    head = read_head(adapter)
    return Source(
        case.model,
        place.model,
        adapter,
        load_tokenizer(place.model),
        "text" if head is None else "head",
        head,
        context_length=512,
        stop_token_ids=(2,),
    )
