"""The Hugging Face hub, or a server that speaks its language: ``hub:org/name`` or ``hub:org/name@revision``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from tunesmith.errors import UsageError
from tunesmith.exchange.base import telling
from tunesmith.registry.blobs import OnProgress

_PLACE = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]{1,100}))?", re.ASCII)
_WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken", "tunesmith/*", "base/*")


class Hub:
    """See :class:`tunesmith.exchange.base.Exchange`. HF_ENDPOINT and HF_TOKEN, or `hf auth login`, are honoured."""

    def push(self, folder: Path, place: str, address: str, on_progress: OnProgress) -> str:
        """Commit the folder; a repository that is not there yet is made, and is private."""
        name, revision = _parse(place)
        with telling(f"hub:{place}", None):
            from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
            from huggingface_hub.utils.tqdm import disable_progress_bars

            disable_progress_bars()
            api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
            on_progress("push", 0, None, "files")
            api.create_repo(name, private=True, exist_ok=True)
            files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
            earlier = set(api.list_repo_files(name, revision=revision)) - {*files, ".gitattributes"}
            # One commit, so that nobody fetches half of one version and half of another.
            operations: list[Any] = [
                *(CommitOperationAdd(path_in_repo=inside, path_or_fileobj=path) for inside, path in files.items()),
                *(CommitOperationDelete(path_in_repo=inside) for inside in sorted(earlier)),
            ]
            message = f"{address} of a Tunesmith registry"
            commit = api.create_commit(name, operations, commit_message=message, revision=revision)
            on_progress("push", len(files), len(files), "files")
            return f"hub:{name}@{commit.oid}"

    def pull(self, place: str, folder: Path, on_progress: OnProgress) -> None:
        """Fetch the files of a model; pickles and code stay there."""
        name, revision = _parse(place)
        with telling(f"hub:{place}", None):
            from huggingface_hub import HfApi
            from huggingface_hub.utils.tqdm import disable_progress_bars

            disable_progress_bars()
            api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
            on_progress("pull", 0, None, "files")
            api.snapshot_download(name, revision=revision, local_dir=folder, allow_patterns=list(_WANTED))


def _parse(place: str) -> tuple[str, str | None]:
    match = _PLACE.fullmatch(place)
    if match is None:
        raise UsageError(
            "not the name of a repository", code="usage.target", value=f"hub:{place}", hint="hub:org/name[@revision]"
        )
    return match["name"], match["revision"]
