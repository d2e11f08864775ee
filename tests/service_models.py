"""A service with tiny models: an offered base, and tuned versions of it in the registry.

place = make_place(tmp_path)                 # files, once for several tests
site = place.site(tmp_path, "sqlite")        # a service over them
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from served_models import make_served
from service_site import Project, Site, make_site
from sqlalchemy import insert
from tiny_models import tiny_encoder_folder, tiny_model_folder

from tunesmith.catalog.registering import register_folder
from tunesmith.registry.record import Origin
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.storage.address import open_store

QUESTION = [{"role": "user", "content": "Where is my parcel?"}]


@dataclass(frozen=True)
class Place:
    """Folders of models."""

    base: Path
    adapters: tuple[Path, Path]
    encoder: Path
    alone: Path

    def site(self, folder: Path, kind: str = "sqlite", **settings: Any) -> Site:
        """A service that offers ``tiny`` and ``vectors``."""
        models = [f"tiny={self.base}", f"vectors={self.encoder}"]
        return make_site(folder, kind, **{"models": models, "engine_wait_seconds": 120.0, **settings})


def make_place(root: Path) -> Place:
    base, first, second = make_served(root / "writers")
    assert first.adapter is not None
    assert second.adapter is not None
    alone = tiny_model_folder("qwen2", root / "alone")
    return Place(base.folder, (first.adapter, second.adapter), tiny_encoder_folder(root / "encoder"), alone)


def add_tuned(project: Project, folder: Path, name: str, base: str = "tiny") -> str:
    """Register a folder as a job would; the model's name."""
    below = folder.parent / "base" if (folder / "adapter_config.json").is_file() else None
    context = project.site.context
    store = open_store(context.settings.registry)
    job = f"ftjob-{name}"
    register_folder(store, folder, job, origin=Origin(kind="folder", name=name), base_name=below and str(below))
    model = f"ft:{base}:tunesmith:{name}:abcdefgh"
    row = {"id": model, "project_id": project.id, "job_id": job, "base": base, "address": f"{job}:1"}
    with context.database.write() as connection:
        connection.execute(insert(TUNED_MODELS).values(created_at=context.now(), **row))
    return model
