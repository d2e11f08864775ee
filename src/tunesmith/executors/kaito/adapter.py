"""The adapter that KAITO pushed, out of its image.

KAITO packs ``data/adapter_config.json`` and ``data/adapter_model.safetensors`` into one compressed layer. Nothing else
of an image is taken, whatever its names say.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith.catalog.entries import find_entry_of_hub_id
from tunesmith.errors import ModelError, TunesmithError
from tunesmith.runs.atomic import read_json, telling_output_errors, write_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TAKEN = {f"data/{name}": name for name in (CONFIG, WEIGHTS)}
_LOOPBACK = re.compile(r"(127\.[0-9.]+|localhost)(:\d+)?")
_MOST_LAYERS = 100
_CHUNK_BYTES = 2**20
_WORDS_CHARACTERS = 300


def pull_adapter(image: str, folder: Path, base: str) -> tuple[list[Path], str | None]:
    """Bring an adapter's files into a folder.

    Args:
        image: ``registry/repository:tag``; the registry's credentials are those of ``docker login``.
        folder: Is made where it is not there; what is in it of an adapter is written over.
        base: The hub's id of the model below the adapter. KAITO writes a path of its container there.

    Returns:
        The files, and where there are none the reason in words.
    """
    host = image.partition("/")[0]
    if "." not in host and ":" not in host and host != "localhost":
        return [], f"{image} names no registry, and docker.io is not asked"
    try:
        with tempfile.TemporaryDirectory() as scratch:
            found = _download(image, host, Path(scratch))
            if set(found) != {CONFIG, WEIGHTS}:
                return [], f"{image} holds no adapter of KAITO"
            return _placed(found, folder, base), None
    except ModuleNotFoundError as error:
        return [], f"{error.name} is not installed: pip install 'tunesmith[oci]'"
    except ModelError as error:
        return [], str(error)
    except TunesmithError:
        raise
    except Exception as error:
        words = (str(error).strip() or "no word").splitlines()[0]
        return [], f"the registry did not give it: {type(error).__name__}: {words}"[:_WORDS_CHARACTERS]


def adapter_manifest(folder: Path, files: list[Path], base: str, seed: int) -> dict[str, Any]:
    """The manifest of a run whose adapter came from KAITO, by which other commands take it like any other.

    Args:
        folder: The run's folder.
        files: The adapter's files in it.
        base: The hub's id of the model below the adapter. KAITO does not say which revision it had.
        seed: Of the training.
    """
    entry = find_entry_of_hub_id(base)
    return {
        "format": 1,
        "run": folder.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "trainer": "KAITO",
        "model": {
            "name": base,
            "source": f"hub: {base}",
            "revision": None,
            "licence": None if entry is None else entry.licence,
            "parameters": None if entry is None else entry.parameters,
        },
        "seed": seed,
        "exports": [],
        "files": {path.relative_to(folder).as_posix(): _described(path) for path in files},
    }


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _download(image: str, host: str, scratch: Path) -> dict[str, Path]:
    from oras.provider import Registry

    client = Registry(hostname=host, insecure=_LOOPBACK.fullmatch(host) is not None)
    container = client.get_container(image)
    client.auth.load_configs(container)
    found: dict[str, Path] = {}
    for number, layer in enumerate((client.get_manifest(container).get("layers") or [])[:_MOST_LAYERS]):
        blob = scratch / f"layer-{number}"
        client.download_blob(container, layer["digest"], str(blob))
        _require_digest(blob, layer)
        found.update(_unpacked(blob, scratch))
        blob.unlink()
    return found


def _require_digest(blob: Path, layer: Any) -> None:
    with blob.open("rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if digest != layer["digest"]:
        raise ModelError(
            "a layer is not what the manifest says", code="registry.blob_changed", value=str(layer["digest"])[:80]
        )


def _unpacked(blob: Path, scratch: Path) -> dict[str, Path]:
    """The two files of an adapter, under names of ours: a tar file's own names lead nowhere."""
    found: dict[str, Path] = {}
    if not tarfile.is_tarfile(blob):
        return found
    with tarfile.open(blob) as archive:
        for member in archive:
            name = _TAKEN.get(member.name.removeprefix("./"))
            content = archive.extractfile(member) if name is not None and member.isfile() else None
            if name is None or content is None:
                continue
            target = scratch / name
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file, _CHUNK_BYTES)
            found[name] = target
    return found


def _placed(found: dict[str, Path], folder: Path, base: str) -> list[Path]:
    config = read_json(found[CONFIG])
    with telling_output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / WEIGHTS
        partial = folder / f".{WEIGHTS}.part"
        shutil.copyfile(found[WEIGHTS], partial)
        partial.replace(weights)
    # The configuration comes last: a folder that has it is whole.
    write_json(folder / CONFIG, {**config, "base_model_name_or_path": base})
    return [folder / CONFIG, weights]
