"""What lies beside a model that was unpacked or converted here: its source, its terms, and hashes of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.catalog.cache import DESCRIPTION
from tunesmith.catalog.entries import CatalogEntry
from tunesmith.catalog.package import hash_of
from tunesmith.runs.atomic import write_json


def write_description(
    folder: Path, model_id: str, entry: CatalogEntry | None, *, source: str, revision: str | None, **more: Any
) -> None:
    """Write it into the model's folder, behind all other files.

    Raises:
        OutputError: The folder cannot be written.
    """
    description = {
        "model": model_id,
        "source": source,
        "revision": revision,
        **more,
        "licence": None if entry is None else entry.licence,
        "licence_url": None if entry is None else entry.licence_url,
        "sha256": {path.name: hash_of(path) for path in sorted(folder.iterdir())},
    }
    write_json(folder / DESCRIPTION, description)
