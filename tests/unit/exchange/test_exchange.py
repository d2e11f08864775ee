"""Versions go to a hub, to MLflow and to an OCI registry and come back; what comes from there is not believed."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from loopback_hub import COMMIT, serve_hub
from registry_cases import base_folder, finished_run
from storage_servers import free_port, running

from tunesmith.catalog.registered import Registered, find_registered
from tunesmith.catalog.registering import register_run
from tunesmith.errors import ModelError, NetworkError, UsageError
from tunesmith.exchange.publish import published
from tunesmith.exchange.table import EXCHANGES, find_exchange
from tunesmith.jobs.registry import Wanted, fetch, push
from tunesmith.storage.folder import LocalStore


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def version(tmp_path) -> Registered:
    store = LocalStore(tmp_path / "registry")
    run = finished_run(tmp_path / "runs" / "one", base_folder(tmp_path / "base"))
    register_run(store, run, "router", description="Routes tickets")
    return find_registered("router:1", store)


@contextmanager
def hub_place(_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    with serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield "hub:org/router", f"hub:org/router@{COMMIT}"
        assert hub.private == {"org/router": True}


@contextmanager
def mlflow_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (folder / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    yield "mlflow:router", "mlflow:router/1"


@contextmanager
def oci_place(folder: Path, _monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """The registry of Debian's package docker-registry."""
    pytest.importorskip("oras")
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("no OCI registry: apt-get install docker-registry")
    port = free_port()
    config = folder / "registry.yml"
    storage = f"storage: {{filesystem: {{rootdirectory: {folder / 'oci'}}}}}"
    config.write_text(f"version: 0.1\n{storage}\nhttp: {{addr: '127.0.0.1:{port}'}}\nlog: {{level: error}}\n")
    with running([program, "serve", str(config)], port):
        yield f"oci://127.0.0.1:{port}/team/router:v1", f"oci://127.0.0.1:{port}/team/router@sha256:"


PLACES = {"hub:": hub_place, "mlflow:": mlflow_place, "oci://": oci_place}


def test_every_kind_of_place_is_tried_here():
    assert PLACES.keys() == EXCHANGES.keys()


@pytest.mark.parametrize("kind", PLACES)
def test_a_version_goes_there_and_comes_back(kind, version, tmp_path, monkeypatch):
    other = LocalStore(tmp_path / "other")
    with PLACES[kind](tmp_path, monkeypatch) as (target, told):
        place = push(version, target)
        assert place.startswith(told)
        found = fetch(other, target, Wanted("copy", aliases=("mine",)))
        # A second time it is only found.
        assert fetch(other, place, Wanted("copy")).number in (1, 2)
    assert found.record is not None
    assert version.version.record is not None
    old, new = version.version.record, found.record
    assert (new.metrics, new.train, new.technique, new.step) == (old.metrics, old.train, old.technique, old.step)
    assert new.origin.kind == "pulled"
    assert "router:1" in new.origin.name
    same = {name for name in new.files if old.files.get(name) == new.files[name]}
    assert {"adapter/adapter_model.safetensors", "base/model.safetensors", "base/config.json"} <= same
    assert find_registered("copy@mine", other).version.number == found.number


@pytest.mark.parametrize("kind", PLACES)
def test_places_that_are_not_there_are_told(kind, version, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    # Its modules import each other in a circle that can be entered here alone.
    pytest.importorskip("oras.provider")
    monkeypatch.setattr("oras.decorator.time.sleep", lambda _: None)
    target = {"hub:": "hub:org/name", "mlflow:": "mlflow:name", "oci://": "oci://127.0.0.1:9/name:v1"}[kind]
    with pytest.raises(NetworkError) as caught:
        push(version, target)
    assert caught.value.place == target


def test_what_is_sent_holds_no_rows_of_the_data_and_no_path_of_this_machine(version, tmp_path):
    folder = published(version, tmp_path / "out", tmp_path / "cache", with_report=False)
    sent = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert sent == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "base/config.json",
        "base/model.safetensors",
        "base/tokenizer.json",
        "tunesmith/record.json",
    }
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".md"):
            text = path.read_text()
            assert str(tmp_path) not in text, path
            assert "secret" not in text, path
            assert "a row of the data" not in text, path
    with_report = published(version, tmp_path / "more", tmp_path / "cache", with_report=True)
    assert (with_report / "tunesmith" / "report.json").is_file()


def test_a_changed_file_is_found_out(version, tmp_path, monkeypatch):
    with serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        push(version, "hub:org/router")
        hub.repositories["org/router"]["adapter_model.safetensors"] = b"something else"
        with pytest.raises(ModelError) as caught:
            fetch(LocalStore(tmp_path / "other"), "hub:org/router", Wanted("copy"))
    assert caught.value.code == "registry.blob_changed"
    assert not (tmp_path / "other" / "models").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../evil": {"sha256": "a" * 64, "size_bytes": 1}}},
        {"files": {"/etc/passwd": {"sha256": "a" * 64, "size_bytes": 1}}},
        {"base": {"name": "/home/somebody/model", "copied": False}},
        {"name": "../x"},
    ],
)
def test_a_record_that_leads_elsewhere_is_refused(change, version, tmp_path, monkeypatch):
    with serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        push(version, "hub:org/router")
        files = hub.repositories["org/router"]
        record = json.loads(files["tunesmith/record.json"])
        files["tunesmith/record.json"] = json.dumps({**record, **change}).encode()
        with pytest.raises(ModelError) as caught:
            fetch(LocalStore(tmp_path / "other"), "hub:org/router", Wanted("copy"))
    assert caught.value.code in ("registry.record", "registry.base")
    assert not (tmp_path / "other" / "models").exists()


def test_an_adapter_without_a_record_must_not_name_a_folder_of_this_machine(tmp_path, monkeypatch):
    secret = base_folder(tmp_path / "private-model")
    config = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": str(secret)}
    with serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        weights = (secret / "model.safetensors").read_bytes()
        hub.repositories["org/plain"] = {
            "adapter_config.json": json.dumps(config).encode(),
            "adapter_model.safetensors": weights,
            "pytorch_model.bin": b"a pickle",
        }
        store = LocalStore(tmp_path / "registry")
        with pytest.raises(ModelError) as caught:
            fetch(store, "hub:org/plain", Wanted("plain"))
        assert caught.value.code == "registry.base"
        found = fetch(store, "hub:org/plain", Wanted("plain"), base_name="smollm2-135m-instruct")
    assert found.record is not None
    assert found.record.base is not None
    assert found.record.base.hub_id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "adapter/pytorch_model.bin" not in found.record.files


@pytest.mark.parametrize("title", ["../evil", "/tmp/evil"])
def test_titles_of_layers_that_lead_elsewhere_are_refused(title, version, tmp_path, monkeypatch):
    with oci_place(tmp_path, monkeypatch) as (target, _):
        place = push(version, target)
        host, _, rest = place.removeprefix("oci://").partition("/")
        repository, _, digest = rest.partition("@")
        url = f"http://{host}/v2/{repository}/manifests"
        kind = "application/vnd.oci.image.manifest.v1+json"
        with urllib.request.urlopen(urllib.request.Request(f"{url}/{digest}", headers={"Accept": kind})) as answer:
            manifest = json.load(answer)
        manifest["layers"][0]["annotations"]["org.opencontainers.image.title"] = title
        body = json.dumps(manifest).encode()
        request = urllib.request.Request(f"{url}/evil", data=body, headers={"Content-Type": kind}, method="PUT")
        urllib.request.urlopen(request).close()
        with pytest.raises(ModelError) as caught:
            fetch(LocalStore(tmp_path / "other"), f"oci://{host}/{repository}:evil", Wanted("copy"))
    assert caught.value.code == "registry.file_name"


@pytest.mark.parametrize(
    "target", ["s3://x/y", "hub:name", "oci://HOST/Upper:1", "mlflow:../x", "hub:a/../b", "oci://h/x y"]
)
def test_targets_that_are_none_are_refused(target, version):
    with pytest.raises(UsageError) as caught:
        push(version, target)
    assert caught.value.code == "usage.target"


def test_the_kind_of_place_is_told_by_its_beginning():
    assert find_exchange("oci://host/name:v1")[1] == "host/name:v1"
