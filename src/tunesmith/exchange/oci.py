"""Registries of the Open Container Initiative, through oras: ``oci://host/repository:tag``.

Each file is a layer with its path as title, as `oras push` makes them. A registry on this machine is spoken to without
TLS. Credentials are those of `docker login` or `oras login`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError, UsageError
from tunesmith.exchange.base import telling
from tunesmith.registry.blobs import OnProgress, hash_file
from tunesmith.registry.record import check_path

ARTIFACT_TYPE = "application/vnd.tunesmith.model.v1"
_LAYER = "application/octet-stream"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_TITLE = "org.opencontainers.image.title"
_HOST = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?", re.ASCII)
_REST = re.compile(r"[a-z0-9._/-]+(:[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})?", re.ASCII)
_LOOPBACK = re.compile(r"(127\.[0-9.]+|localhost)(:\d+)?")
_CHUNK_BYTES = 16 * 2**20
_MOST_LAYERS = 10_000


class Oci:
    """See :class:`tunesmith.exchange.base.Exchange`."""

    def push(self, folder: Path, place: str, address: str, on_progress: OnProgress) -> str:
        """Upload each file that is not there yet, then the manifest."""
        host, name = _parse(place)
        with telling(f"oci://{place}", "oci"):
            client, container = _open(host, name)
            files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
            layers = []
            for number, (title, path) in enumerate(files.items(), 1):
                layers.append({**_upload(client, container, path), "annotations": {_TITLE: title}})
                on_progress("push", number, len(files), "files")
            empty = folder.parent / "empty.json"
            empty.write_bytes(b"{}")
            config = {**_upload(client, container, empty), "mediaType": _EMPTY_TYPE}
            manifest = {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "artifactType": ARTIFACT_TYPE,
                "config": config,
                "layers": layers,
                "annotations": {"tunesmith.address": address},
            }
            answer = client.upload_manifest(manifest, container)
            _require_good(answer)
            digest = answer.headers.get("Docker-Content-Digest")
            bare = name.partition("@")[0].partition(":")[0]
            return f"oci://{host}/{bare}@{digest}" if digest else f"oci://{place}"

    def pull(self, place: str, folder: Path, on_progress: OnProgress) -> None:
        """Download every layer and see that it is what the manifest says; no title leads out of the folder."""
        host, name = _parse(place)
        with telling(f"oci://{place}", "oci"):
            client, container = _open(host, name)
            layers = client.get_manifest(container).get("layers") or []
            titles = [_title_of(layer) for layer in layers[:_MOST_LAYERS]]
            for number, (layer, title) in enumerate(zip(layers, titles, strict=False), 1):
                target = folder / title
                target.parent.mkdir(parents=True, exist_ok=True)
                client.download_blob(container, layer["digest"], str(target))
                if f"sha256:{hash_file(target).sha256}" != layer["digest"]:
                    raise ModelError("a layer is not what the manifest says", code="registry.blob_changed", place=title)
                on_progress("pull", number, len(layers), "files")


def _open(host: str, name: str) -> tuple[Any, Any]:
    from oras.provider import Registry

    client = Registry(hostname=host, insecure=_LOOPBACK.fullmatch(host) is not None)
    container = client.get_container(f"{host}/{name}")
    client.auth.load_configs(container)
    return client, container


def _upload(client: Any, container: Any, path: Path) -> dict[str, Any]:
    blob = hash_file(path)
    layer = {"mediaType": _LAYER, "size": blob.size_bytes, "digest": f"sha256:{blob.sha256}"}
    # In one piece the library reads the whole file into memory.
    answer = client.upload_blob(
        str(path), container, layer, do_chunked=blob.size_bytes > _CHUNK_BYTES, chunk_size=_CHUNK_BYTES
    )
    _require_good(answer)
    return layer


def _require_good(answer: Any) -> None:
    if answer.status_code not in (200, 201, 202, 204):
        raise ConnectionError(f"status {answer.status_code}: {answer.text[:200]}")


def _title_of(layer: Any) -> str:
    title = str((layer.get("annotations") or {}).get(_TITLE) or "")
    try:
        return check_path(title)
    except ValueError as error:
        raise ModelError(
            "a layer has a title that is no path within a model", code="registry.file_name", value=repr(title)[:200]
        ) from error


def _parse(place: str) -> tuple[str, str]:
    host, _, name = place.partition("/")
    if not _HOST.fullmatch(host) or not _REST.fullmatch(name):
        raise UsageError(
            "not the address of an OCI artifact",
            code="usage.target",
            value=f"oci://{place}",
            hint="oci://host/repository:tag, all of it in lowercase",
        )
    return host, name
