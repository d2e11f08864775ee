"""From a model's name to a folder on disk that loads: fetched, converted, or found in a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.catalog.cache import DESCRIPTION, cache_folder, converted_folder, downloads_folder, preparing
from tunesmith.catalog.description import write_description
from tunesmith.catalog.entries import CatalogEntry
from tunesmith.catalog.fetch import Fetched, fetch_model, find_fetched
from tunesmith.catalog.registered import bring_out_registered, require_own_base
from tunesmith.catalog.resolve import ModelReference, resolve_model
from tunesmith.catalog.watch import OnProgress
from tunesmith.errors import ModelError
from tunesmith.runs.atomic import new_folder, read_json
from tunesmith.runs.layout import RunFolder


@dataclass(frozen=True)
class PreparedModel:
    """A model that lies on this machine and can be loaded.

    ``folder`` holds config, safetensors and tokenizer of the base (or of a fully trained model), ``adapter`` the PEFT
    adapter to put on it, or None. ``source`` says where the base came from, ``revision`` which state of it, ``licence``
    what the catalog knows of its terms.
    """

    folder: Path
    adapter: Path | None
    reference: ModelReference
    source: str
    revision: str | None = None
    licence: str | None = None


def ensure_model_folder(name: str, runs_folder: Path, on_progress: OnProgress) -> PreparedModel:
    """Bring a model here if it is not here yet, convert it if it needs that, and say where it lies.

    Two processes may ask for the same model at once: the second waits and then finds it. Nothing half-written stays
    behind under a model's name.

    Args:
        name: A folder, a run, a registered version, a catalog id or a hub id; see
            :func:`tunesmith.catalog.resolve.resolve_model`.
        runs_folder: Where runs are looked for by name.
        on_progress: Called with what is done (``"download"``, ``"convert"``), how much, of how much (or None), unit.

    Raises:
        ModelError: The name means nothing, or the model cannot be used; see the callees for codes. For runs:
            ``model.run_unfinished``, ``model.adapter_chain``; for adapters ``model.adapter_base``.
        NetworkError: No source answered.
        OutputError: The cache cannot be written, or the disk is full.
    """
    reference = resolve_model(name, runs_folder)
    if reference.kind == "registry":
        return _of_registry(reference, runs_folder, on_progress)
    if reference.kind == "run":
        return _of_run(reference, runs_folder, on_progress)
    if reference.kind == "folder":
        assert reference.path is not None
        return _of_folder(reference.path, reference, runs_folder, on_progress)
    return _of_source(reference, runs_folder, on_progress)


def _of_source(reference: ModelReference, runs_folder: Path, on_progress: OnProgress) -> PreparedModel:
    """A model of the catalog or the hub."""
    fetched = find_fetched(reference)
    if fetched is None:
        with preparing(reference.name.replace("/", "--").lower()):
            fetched = fetch_model(reference, on_progress)
            if fetched.format == "gguf":
                fetched = _convert(fetched, reference.name, reference.entry, on_progress)
    if not (fetched.path / "config.json").is_file():
        # A repository of the hub may hold an adapter alone.
        return _of_folder(fetched.path, reference, runs_folder, on_progress)
    licence = reference.entry.licence if reference.entry else None
    return PreparedModel(fetched.path, None, reference, fetched.source, fetched.revision, licence)


def _convert(fetched: Fetched, model_id: str, entry: CatalogEntry | None, on_progress: OnProgress) -> Fetched:
    """Write the model folder whole or not at all, and let go of the downloaded file after that."""
    from tunesmith.models.starter import convert_gguf

    size = fetched.path.stat().st_size
    on_progress("convert", 0, size, "bytes")
    target = converted_folder(model_id)
    with new_folder(target) as scratch:
        convert_gguf(fetched.path, scratch)
        write_description(
            scratch,
            model_id,
            entry,
            source=fetched.source,
            revision=fetched.revision,
            file=fetched.path.name,
            file_sha256=fetched.sha256,
        )
    on_progress("convert", size, size, "bytes")
    fetched.path.unlink(missing_ok=True)
    downloads = downloads_folder(model_id)
    if downloads.is_dir() and not any(downloads.iterdir()):
        downloads.rmdir()
    return Fetched(target, "safetensors", fetched.source, fetched.revision)


def _of_folder(folder: Path, reference: ModelReference, runs_folder: Path, on_progress: OnProgress) -> PreparedModel:
    """A folder that the user gave, or that a run wrote: a whole model, or an adapter that names its base."""
    described = folder / DESCRIPTION
    known: Mapping[str, Any] = read_json(described) if described.is_file() else {}
    if (folder / "config.json").is_file():
        source = str(known.get("source", "folder"))
        return PreparedModel(folder, None, reference, source, known.get("revision"), known.get("licence"))
    base = _base_of_adapter(folder)
    if not base:
        raise ModelError(
            "the adapter does not name its base model",
            code="model.adapter_base",
            place=str(folder),
            hint="write the base model's folder or hub id as base_model_name_or_path into adapter_config.json",
        )
    try:
        found = ensure_model_folder(str(base), runs_folder, on_progress)
    except ModelError as error:
        raise ModelError(
            "the adapter's base model cannot be had",
            code="model.adapter_base",
            place=str(folder),
            value=f"{base}: {error.message}",
            hint="correct base_model_name_or_path in adapter_config.json",
        ) from error
    return _with_adapter(found, folder, reference)


def _base_of_adapter(folder: Path) -> Any:
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise ModelError(
            "the folder holds no model: config.json is missing",
            code="model.no_config",
            place=str(folder),
            hint="only models of the Transformers library and adapters of the PEFT library are loaded",
        )
    try:
        return read_json(path).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise ModelError(
            "adapter_config.json cannot be read",
            code="model.broken_config",
            place=str(path),
            value=str(error)[:200],
            hint="fetch or copy the adapter again",
        ) from error


def _of_run(reference: ModelReference, runs_folder: Path, on_progress: OnProgress) -> PreparedModel:
    assert reference.path is not None
    run = RunFolder(reference.path)
    manifest = run.read_manifest()
    if manifest is None:
        raise ModelError(
            "the run has not finished, so it has no model yet",
            code="model.run_unfinished",
            place=str(run.path),
            hint=f"continue it with `tunesmith runs resume {run.name}`",
        )
    if (run.path / "model" / "config.json").is_file():
        return _of_folder(run.path / "model", reference, runs_folder, on_progress)
    if not run.adapter.is_dir():
        raise ModelError(
            "the run holds neither a model nor an adapter",
            code="model.run_empty",
            place=str(run.path),
            hint="the folder was changed after the run; train again",
        )
    return _with_adapter(ensure_base_of_run(run, runs_folder, on_progress), run.adapter, reference)


def ensure_base_of_run(run: RunFolder, runs_folder: Path, on_progress: OnProgress) -> PreparedModel:
    """The model that a finished run was trained from.

    The folder that the run used comes first: its name may mean another one where the current folder is another. The
    name is for what has moved, such as a cache.

    Raises:
        ModelError: ``model.run_base`` where the run does not say; else as :func:`ensure_model_folder`.
    """
    base = (run.read_manifest() or {}).get("model") or {}
    name, place = base.get("name"), run.base_folder()
    if place is not None:
        reference = ModelReference("folder", str(name or place), place)
        source = str(base.get("source") or "folder")
        return PreparedModel(place, None, reference, source, base.get("revision"), base.get("licence"))
    if not name or str(name) == run.name:
        raise ModelError(
            "the run does not say which model it was trained from",
            code="model.run_base",
            place=str(run.manifest),
            hint="the manifest was changed after the run; train again",
        )
    return ensure_model_folder(str(name), runs_folder, on_progress)


def _of_registry(reference: ModelReference, runs_folder: Path, on_progress: OnProgress) -> PreparedModel:
    """A version of the registry, on the very base that it was trained on."""
    assert reference.registered is not None
    folder = bring_out_registered(reference.registered, cache_folder(), on_progress)
    reference = replace(reference, path=folder)
    found = _of_run(reference, runs_folder, on_progress)
    if found.adapter is not None:
        require_own_base(folder, found.folder)
        return found
    known = read_json(folder / "manifest.json").get("model") or {}
    return replace(found, source=f"registry: {reference.name}", licence=known.get("licence"))


def _with_adapter(base: PreparedModel, adapter: Path, reference: ModelReference) -> PreparedModel:
    if base.adapter is not None:
        raise ModelError(
            "the adapter stands on a model that is itself an adapter",
            code="model.adapter_chain",
            place=str(adapter),
            value=str(base.adapter),
            hint="merge the first adapter into its base, save that as a folder, and train on the folder",
        )
    return PreparedModel(base.folder, adapter, reference, base.source, base.revision, base.licence)
