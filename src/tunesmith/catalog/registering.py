"""Runs and folders become versions of the registry: which files, which facts, which base."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.catalog.bases import BaseModel, describe_base
from tunesmith.catalog.heads import read_head
from tunesmith.errors import ModelError
from tunesmith.registry.blobs import OnProgress, no_progress
from tunesmith.registry.card import model_card
from tunesmith.registry.names import looks_like_address
from tunesmith.registry.record import Base, Origin, Record
from tunesmith.registry.versions import Version
from tunesmith.registry.writing import Content, add_version, claim_of_run
from tunesmith.runs.atomic import read_json, write_json
from tunesmith.runs.layout import RunFolder
from tunesmith.storage.store import Store

_MODEL_FILES = (".json", ".safetensors", ".model", ".txt", ".jinja", ".tiktoken")
_BESIDE = ("recipe.yaml", "resolved.json", "manifest.json", "audit.json", "report.json", "report.md", "report.html")
_PIPELINES = {
    "sequence_classification": "text-classification",
    "token_classification": "token-classification",
    "question_answering": "question-answering",
    "seq2seq": "text2text-generation",
}
_ADAPTER_CONFIG = "adapter_config.json"


def register_run(
    store: Store,
    run: RunFolder,
    name: str,
    *,
    description: str = "",
    language: str | None = None,
    with_base: bool = False,
    number: int | None = None,
    on_progress: OnProgress = no_progress,
) -> Record:
    """Register a finished run; with ``number`` it completes the version that was claimed for it.

    A version whose registration is killed on the way is completed when it is next asked for.

    Raises:
        ModelError: The run is not finished, or its base is gone.
        TunesmithError: As :func:`tunesmith.registry.writing.add_version`.
    """
    with gathered_run(run, description=description, language=language, with_base=with_base) as content:
        claim = claim_of_run(run.path, description=description, language=language, with_base=with_base)
        return add_version(store, name, content, model_card, number=number, claim=claim, on_progress=on_progress)


def register_folder(
    store: Store,
    folder: Path,
    name: str,
    *,
    origin: Origin,
    description: str = "",
    language: str | None = None,
    with_base: bool = False,
    base_name: str | None = None,
    trusted: bool = True,
    on_progress: OnProgress = no_progress,
) -> Record:
    """Register a model or an adapter that was not made by a run here.

    Args:
        store: The registry.
        folder: Config, safetensors and tokenizer of a model, or an adapter in PEFT's format.
        name: Under which name.
        origin: Where it comes from.
        description: For people.
        language: For the card.
        with_base: Copy an adapter's base in any case.
        base_name: The base, where the adapter does not say or is wrong.
        trusted: The adapter may name a folder of this machine as its base; not so for what came from elsewhere.
        on_progress: Told of bytes.

    Raises:
        ModelError: ``registry.no_model``, ``registry.base``.
        TunesmithError: As :func:`tunesmith.registry.writing.add_version`.
    """
    words = {"description": description, "language": language, "origin": origin}
    with gathered_folder(folder, base_name, with_base=with_base, trusted=trusted) as content:
        facts = {**content.facts, **words}
        return add_version(store, name, Content(content.files, facts), model_card, on_progress=on_progress)


def complete(store: Store, version: Version, on_progress: OnProgress = no_progress) -> bool:
    """Complete a version whose run has finished since; False where it has not, or is not on this machine."""
    claim = version.claim
    run = RunFolder(Path(claim.run_folder)) if claim.run_folder is not None else None
    if version.state != "training" or run is None or not run.manifest.is_file():
        return False
    register_run(
        store,
        run,
        version.name,
        description=claim.description,
        language=claim.language,
        with_base=claim.with_base,
        number=version.number,
        on_progress=on_progress,
    )
    return True


@contextmanager
def gathered_run(run: RunFolder, *, description: str, language: str | None, with_base: bool) -> Iterator[Content]:
    """The files and facts of a finished run, while the block lasts.

    Raises:
        ModelError: ``registry.not_finished``, ``registry.no_model``, ``registry.base``.
    """
    manifest = run.read_manifest()
    if manifest is None:
        raise ModelError(
            "the run has not finished", code="registry.not_finished", place=run.name, hint="register it to follow it"
        )
    kind = "adapter" if run.adapter.is_dir() else "model"
    result = run.adapter if kind == "adapter" else run.model
    if not result.is_dir():
        raise ModelError("the run holds neither a model nor an adapter", code="registry.no_model", place=str(run.path))
    base = base_of_run(run, with_base=with_base, kind=kind)
    with tempfile.TemporaryDirectory(prefix="tunesmith-register-") as scratch:
        files = {f"{kind}/{name}": path for name, path in _below(result).items()}
        files |= {name: run.path / name for name in _BESIDE if (run.path / name).is_file()}
        files |= base_files(base)
        if kind == "adapter":
            files[f"adapter/{_ADAPTER_CONFIG}"] = adapter_config(result, base.facts, Path(scratch))
        report = read_json(run.report_json) if run.report_json.is_file() else {}
        words = {"kind": kind, "description": description, "language": language}
        yield Content(files, {**words, "base": base.facts, **_facts(run, manifest, report, base.facts)})


def base_of_run(run: RunFolder, *, with_base: bool, kind: str) -> BaseModel:
    """The base of a run; a whole model needs none, which is named in any case.

    Raises:
        ModelError: ``registry.base``: it must be copied and is gone.
    """
    model = (run.read_manifest() or {}).get("model") or {}
    folder = run.base_folder()
    own = folder is not None and folder.is_relative_to(run.path.resolve())
    return describe_base(model, folder, own=own, needed=kind == "adapter", with_base=with_base)


def base_files(base: BaseModel) -> dict[str, Path]:
    """The files of a base that has to be copied, by their place in the version."""
    if not base.facts.copied or base.folder is None:
        return {}
    files = {path.name: path for path in sorted(base.folder.iterdir()) if _is_model_file(path)}
    return {f"base/{name}": path for name, path in files.items()}


def adapter_config(adapter: Path, base: Base, scratch: Path) -> Path:
    """The adapter's config with a base that others can find in place of a folder of this machine."""
    config = dict(read_json(adapter / _ADAPTER_CONFIG))
    config["base_model_name_or_path"] = "../base" if base.copied else base.hub_id or base.name
    path = scratch / _ADAPTER_CONFIG
    write_json(path, config)
    return path


@contextmanager
def gathered_folder(folder: Path, base_name: str | None, *, with_base: bool, trusted: bool) -> Iterator[Content]:
    """The files and facts of a model folder or an adapter folder, while the block lasts."""
    is_adapter = (folder / _ADAPTER_CONFIG).is_file()
    if not (is_adapter or (folder / "config.json").is_file()) or not any(folder.glob("*.safetensors")):
        raise ModelError(
            "the folder holds neither a model nor an adapter in safetensors",
            code="registry.no_model",
            place=str(folder),
            hint="config.json or adapter_config.json, and *.safetensors, are looked for; pickles are never read",
        )
    kind = "adapter" if is_adapter else "model"
    head = read_head(folder)
    facts: dict[str, Any] = {"kind": kind, "pipeline": _PIPELINES[head.kind] if head else "text-generation"}
    files = {f"{kind}/{path.name}": path for path in sorted(folder.iterdir()) if _is_model_file(path)}
    with tempfile.TemporaryDirectory(prefix="tunesmith-register-") as scratch:
        if is_adapter:
            base = _base_of_adapter(folder, base_name, with_base=with_base, trusted=trusted)
            files |= base_files(base)
            files[f"adapter/{_ADAPTER_CONFIG}"] = adapter_config(folder, base.facts, Path(scratch))
            facts |= {"base": base.facts, "licences": _licences(base.facts), "technique": _peft_method(folder)}
        yield Content(files, facts)


def _base_of_adapter(folder: Path, base_name: str | None, *, with_base: bool, trusted: bool) -> BaseModel:
    from tunesmith.catalog.cache import prepared_folder

    name = str(base_name or read_json(folder / _ADAPTER_CONFIG).get("base_model_name_or_path") or "")
    place = Path(name).expanduser()
    if name and (trusted or base_name) and (place / "config.json").is_file():
        return describe_base({"name": place.name}, place.resolve(), own=True, needed=True, with_base=True)
    here = prepared_folder(name) if name else None
    source = "hub: " if name else None
    return describe_base({"name": name, "source": source}, here, own=False, needed=True, with_base=with_base)


def _facts(run: RunFolder, manifest: Mapping[str, Any], report: Mapping[str, Any], base: Base) -> dict[str, Any]:
    model, data, cost = manifest.get("model") or {}, report.get("data") or {}, report.get("cost") or {}
    objective = str(report.get("objective") or "")
    name = str(model.get("name") or "")
    prints = manifest.get("data") or {}
    environment = manifest.get("environment") or {}
    libraries = {key: str(environment[key]) for key in ("torch", "transformers", "peft") if key in environment}
    return {
        "origin": Origin(kind="run", name=run.name, identity=manifest.get("identity"), created=manifest.get("created")),
        "parent": name if looks_like_address(name) else None,
        "licences": _licences(base, name if looks_like_address(name) else None),
        "task": report.get("task"),
        "objective": objective or None,
        "technique": report.get("technique") or {},
        "seed": manifest.get("seed"),
        "step": cost.get("best_step") or cost.get("steps") or (manifest.get("counts") or {}).get("steps"),
        "train": _side(data.get("train"), prints.get("train")),
        "held_out": _side(data.get("validation"), prints.get("held_out")),
        "metrics": {system["name"]: _measures(system) for system in report.get("systems") or ()},
        "primary_metric": report.get("primary_metric"),
        "verdict": (report.get("verdict") or {}).get("text"),
        "pipeline": _PIPELINES.get(objective, "text-generation"),
        "libraries": libraries,
    }


def _measures(system: Mapping[str, Any]) -> dict[str, Any]:
    measures = dict(system.get("metrics") or {})
    for name in ("loss", "perplexity"):
        if system.get(name):
            measures.setdefault(name, {**system[name], "higher_is_better": False})
    return measures


def _side(side: Mapping[str, Any] | None, fingerprint: str | None) -> dict[str, Any]:
    files = [
        {"name": re.split(r"[/\\]", str(file["name"]))[-1], "sha256": str(file["sha256"])}
        for file in (side or {}).get("files") or ()
    ]
    return {"files": files, "fingerprint": fingerprint, "rows": (side or {}).get("used_rows")}


def _licences(base: Base, parent: str | None = None) -> tuple[str, ...]:
    """From the base to this model: whose terms hold."""
    if base.licence is None:
        return ()
    link = f", {base.licence_url}" if base.licence_url else ""
    chain = [f"{parent or base.name}: {base.licence}{link}"]
    return (*chain, f"this model is made from {parent or base.name}, so the terms of {base.licence} go with it")


def _peft_method(folder: Path) -> dict[str, Any]:
    config = read_json(folder / _ADAPTER_CONFIG)
    return {"name": str(config.get("peft_type") or "peft").lower(), "rank": config.get("r")}


def _below(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _is_model_file(path: Path) -> bool:
    return path.is_file() and path.suffix in _MODEL_FILES and not path.name.startswith(".")
