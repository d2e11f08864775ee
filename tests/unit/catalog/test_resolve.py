"""What a model's name means, in the order of the house."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.catalog.resolve import resolve_model
from tunesmith.errors import ModelError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine-1").mkdir(parents=True)
    (tmp_path / "runs" / "mine-1" / "recipe.yaml").write_text("model: phi-4\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    return tmp_path


def test_a_folder_a_run_a_catalog_id_a_hub_id(here: Path) -> None:
    runs = here / "runs"
    kinds = {
        name: resolve_model(name, runs).kind
        for name in ("folder", "./folder", "mine-1", "runs/mine-1", "phi-4", "Phi-4", "org/name")
    }
    assert kinds == {
        "folder": "folder", "./folder": "folder", "mine-1": "run", "runs/mine-1": "run",
        "phi-4": "catalog", "Phi-4": "catalog", "org/name": "hub",
    }  # fmt: skip
    assert resolve_model("mine-1", runs).path == runs / "mine-1"
    assert resolve_model("folder", runs).path == here / "folder"
    assert resolve_model("Phi-4", runs).name == "phi-4"


def test_a_folder_comes_before_a_run_and_a_run_before_the_catalog(here: Path) -> None:
    runs = here / "runs"
    (runs / "phi-4").mkdir()
    (runs / "phi-4" / "recipe.yaml").write_text("model: phi-4\n")
    assert resolve_model("phi-4", runs).kind == "run"
    (here / "phi-4").mkdir()
    (here / "phi-4" / "config.json").write_text("{}")
    assert resolve_model("phi-4", runs).kind == "folder"


def test_an_unrelated_folder_does_not_hide_a_catalog_id(here: Path) -> None:
    (here / "phi-4").mkdir()
    assert resolve_model("phi-4", here / "runs").kind == "catalog"


def test_a_hub_id_of_the_catalog_keeps_its_entry_but_asks_the_hub(here: Path) -> None:
    reference = resolve_model("HuggingFaceTB/SmolLM2-135M-Instruct", here / "runs")
    assert reference.kind == "hub"
    assert reference.entry is not None
    assert reference.entry.id == "smollm2-135m-instruct"


@pytest.mark.parametrize(
    ("name", "code", "hint"),
    [
        ("smollm2-135-instruct", "model.unknown", "did you mean `smollm2-135m-instruct`"),
        ("mine-2", "model.unknown", "`mine-1`"),
        ("", "model.no_config", "config.json"),
        ("ft:phi-4:x", "model.reserved", "name:3"),
        ("empty", "model.no_config", "config.json"),
        ("model.gguf", "model.not_a_folder", "safetensors"),
        ("./nothing", "model.missing_folder", "check the path"),
        ("/no/such/folder", "model.missing_folder", "check the path"),
        ("a/b/c", "model.missing_folder", "check the path"),
        ("../x", "model.missing_folder", "check the path"),
    ],
)
def test_names_that_mean_nothing(here: Path, name: str, code: str, hint: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_model(name, here / "runs")
    assert caught.value.code == code
    assert hint in (caught.value.hint or "")
