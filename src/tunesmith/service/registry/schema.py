"""A registered version as it is told: nothing of where things lie on the service's machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Row

from tunesmith.registry.references import Reference
from tunesmith.registry.versions import Version

_OF_RECORD = ("objective", "seed", "step", "licences", "libraries", "language")


class GiveLabel(BaseModel):
    """The body that lets a stage or an alias stand for a version."""

    model_config = ConfigDict(extra="forbid")
    label: str
    kind: Literal["stage", "alias"] = "stage"


def shown(row: Row[Any], version: Version, labels: Mapping[str, int]) -> dict[str, Any]:
    """A version in a list."""
    record = version.record
    return {
        "id": row.id,
        "object": "registry.version",
        "model": row.id,
        "base": row.base,
        "version": version.number,
        "state": version.state,
        "job_id": row.job_id,
        "created_at": int(row.created_at),
        "labels": sorted(label for label, number in labels.items() if number == version.number),
        "kind": None if record is None else record.kind,
        "task": None if record is None else record.task,
        "technique": None if record is None else record.technique,
        "primary_metric": None if record is None else record.primary_metric,
        "metrics": {} if record is None else _metrics(version),
        "verdict": None if record is None else record.verdict,
        "size_bytes": None if record is None else record.size_bytes,
    }


def shown_whole(
    listed: Mapping[str, Any], version: Version, lineage: Sequence[str], references: Sequence[Reference]
) -> dict[str, Any]:
    """A version with all that is known of it.

    Args:
        listed: As in a list.
        version: The version.
        lineage: Names of the models that it came of, the nearest first, and last the base.
        references: Who uses it; of whom only the kind is told.
    """
    record = version.record
    known: dict[str, Any] = {}
    if record is not None:
        data = record.model_dump(mode="json", exclude_none=True)
        known = {
            key: data[key] for key in ("objective", "seed", "step", "licences", "libraries", "language") if key in data
        }
        known["data"] = {side: data[side] for side in ("train", "held_out")}
        known["files"] = {name: blob["size_bytes"] for name, blob in data["files"].items()}
    used_by = [one.kind for one in references]
    return {
        **listed,
        **known,
        "lineage": list(lineage),
        "used_by": {kind: used_by.count(kind) for kind in sorted(set(used_by))},
    }


def _metrics(version: Version) -> dict[str, Any]:
    assert version.record is not None
    return {
        system: {name: value.model_dump(mode="json", exclude_none=True) for name, value in measures.items()}
        for system, measures in version.record.metrics.items()
    }
