"""The end of a run: its report, and the manifest that says it is whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith.data.store import TokenStore
from tunesmith.engine.settings import TrainResult
from tunesmith.evaluation.before_after import Judge, report_systems, samples, verdict
from tunesmith.evaluation.questions import HeldOut
from tunesmith.evaluation.report.write import write_report
from tunesmith.evaluation.systems import Measured
from tunesmith.formats.inspect import Inspection
from tunesmith.formats.read import choose_rows
from tunesmith.pipeline.clock import RunClock
from tunesmith.pipeline.environment import environment
from tunesmith.pipeline.memorised import memorisation
from tunesmith.pipeline.merged import MERGE
from tunesmith.pipeline.planned import plan_and_truth
from tunesmith.pipeline.prepare import Prepared
from tunesmith.pipeline.told import Teller
from tunesmith.recipe.resolved import Resolved
from tunesmith.runs.atomic import read_json, write_json
from tunesmith.runs.events import read_events
from tunesmith.runs.layout import RunFolder

MANIFEST_FORMAT = 1


@dataclass(frozen=True)
class Finished:
    """Everything that a report is made of. ``parameters`` are trained ones and all."""

    folder: RunFolder
    prepared: Prepared
    resolved: Resolved
    held_out: HeldOut
    systems: Sequence[Measured]
    result: TrainResult
    learning_curve: list[dict[str, Any]] | None
    parameters: tuple[int, int]
    exports: Sequence[dict[str, Any]] = ()


def finish(finished: Finished, teller: Teller, clock: RunClock) -> None:
    """Write the report, tell of it, and write the manifest last.

    Raises:
        OutputError: The folder cannot be written or the disk is full.
    """
    folder = finished.folder
    report = _report(finished, clock)
    write_report(report, folder.path)
    teller.events.emit("artifact", kind="report", path=folder.report_html.name)
    write_json(folder.manifest, _manifest(finished))


def judge_of(resolved: Resolved, prepared: Prepared) -> Judge:
    """How the answers of a run are judged."""
    return Judge(resolved.metrics, prepared.task.labels, resolved.seed)


def model_part(prepared: Prepared) -> dict[str, Any]:
    """The ``model`` of a report."""
    return {
        "name": prepared.recipe.model,
        "source": prepared.model.source,
        "revision": prepared.model.revision,
        "parameters": prepared.model_facts.parameters,
        "licence": prepared.model.licence,
    }


def chosen_samples(held_out: HeldOut, resolved: Resolved) -> tuple[int, ...]:
    """Which questions are shown with their answers."""
    return choose_rows(len(held_out.questions), resolved.samples, resolved.seed)


def version() -> str:
    """This Tunesmith's version."""
    from importlib.metadata import version as installed

    return installed("tunesmith")


def _report(finished: Finished, clock: RunClock) -> dict[str, Any]:
    resolved, prepared, held_out = finished.resolved, finished.prepared, finished.held_out
    judge = judge_of(resolved, prepared)
    systems = finished.systems
    found = verdict(systems[0], systems[-1], held_out, judge)
    audit = read_json(finished.folder.audit)
    resolved_json = resolved.to_json()
    return {
        "format": 1,
        "run": finished.folder.name,
        "created": now(),
        "tunesmith": version(),
        "task": resolved.task,
        "objective": resolved.objective.name,
        "technique": resolved.technique.model_dump(mode="json"),
        "model": model_part(prepared),
        "primary_metric": found["metric"],
        "systems": report_systems(systems, held_out, judge),
        "verdict": found,
        "against_examples": next(
            (verdict(one, systems[-1], held_out, judge) for one in systems if one.name == "few_shot"), None
        ),
        "samples": samples(systems, held_out, judge, chosen_samples(held_out, resolved)),
        "curves": _curves(finished.folder.events),
        "cost": _cost(finished, clock),
        "plan": plan_and_truth(finished.folder, prepared, finished.result, clock),
        "data": data_part(prepared, len(held_out.items)),
        "audit": [{key: check[key] for key in ("name", "ok", "detail")} for check in audit["checks"]],
        "learning_curve": finished.learning_curve,
        "memorisation": memorisation(prepared, systems, held_out) or None,
        "resolved": {**resolved_json["portable"], **resolved_json["host"]},
        "environment": environment(prepared.host),
        "seed": resolved.seed,
        "warnings": _warnings(finished.folder.events),
    }


def data_part(prepared: Prepared, measured_rows: int) -> dict[str, Any]:
    """The ``data`` of a report."""
    data, train, validation = prepared.data, prepared.train, prepared.validation
    seen = data.overlap()
    held = data.validation or data.inspection
    return {
        "train": {
            **_side(data.inspection),
            "used_rows": len(train.items),
            "skipped_rows": data.inspection.bad_rows.count + _left_out(train),
            "tokens": int(train.lengths_B.sum()),
            "trained_tokens": int(train.trained_counts_B.sum()),
        },
        "validation": {
            **_side(held),
            "rows": len(validation.items),
            "used_rows": measured_rows,
            "skipped_rows": (held.bad_rows.count if data.validation else 0) + _left_out(validation),
            "tokens": int(validation.lengths_B.sum()),
            "trained_tokens": int(validation.trained_counts_B.sum()),
        },
        "duplicates": data.inspection.duplicates,
        "overlap": None if seen is None else seen.same_prompt,
        "split": data.describe_split(),
    }


def _side(inspection: Inspection) -> dict[str, Any]:
    return {
        "source": inspection.source,
        "files": [{"name": file.name, "sha256": file.sha256} for file in inspection.files],
        "rows": inspection.rows,
    }


def _cost(finished: Finished, clock: RunClock) -> dict[str, Any]:
    result = finished.result
    stages = clock.stage_seconds()
    trained, total = finished.parameters
    return {
        "steps": result.steps,
        "best_step": result.best_step,
        "epochs": result.epochs,
        "trained_tokens": result.trained_tokens,
        "tokens": result.tokens,
        "tokens_per_second": result.tokens / result.seconds if result.seconds else None,
        "wall_seconds": {**stages, "total": clock.elapsed_seconds()},
        "peak_memory_bytes": result.peak_memory_bytes,
        "rank_memory_bytes": list(result.rank_memory_bytes) if len(result.rank_memory_bytes) > 1 else None,
        "rank_held": list(map(asdict, result.rank_held)) if len(result.rank_held) > 1 else None,
        "trained_parameters": trained,
        "total_parameters": total,
    }


def _curves(events: Path) -> dict[str, Any]:
    """What happened at each step; a step that was redone after a crash counts as it was done last."""
    steps: dict[int, dict[str, Any]] = {}
    validations: dict[int, dict[str, Any]] = {}
    names = ("loss", "learning_rate", "gradient_norm", "tokens", "seconds")
    for event in read_events(events):
        if event.type == "step" and event.step is not None:
            steps[event.step] = {"step": event.step, **{name: event.data.get(name) for name in names}}
        elif event.type == "evaluation" and event.step is not None:
            validations[event.step] = {"step": event.step, "loss": event.data.get("loss")}
    return {
        "train": [steps[step] for step in sorted(steps)],
        "validation": [validations[step] for step in sorted(validations)],
    }


def _warnings(events: Path) -> list[str]:
    """All warnings of all attempts, each once."""
    found = (str(event.data.get("message")) for event in read_events(events) if event.type == "warning")
    return list(dict.fromkeys(found))


def _manifest(finished: Finished) -> dict[str, Any]:
    """What the run was and what it left, with a hash for each file. Paths are relative to the run folder."""
    folder, prepared, resolved = finished.folder.path, finished.prepared, finished.resolved
    kept = [path for name in ("adapter", "model") for path in sorted((folder / name).rglob("*")) if path.is_file()]
    kept += [folder / name for name in ("recipe.yaml", "resolved.json", "audit.json")]
    kept += [folder / f"report.{form}" for form in ("json", "md", "html")]
    return {
        "format": MANIFEST_FORMAT,
        "run": finished.folder.name,
        "created": now(),
        "tunesmith": version(),
        "identity": resolved.identity,
        "model": {
            **model_part(prepared),
            "folder": os.path.relpath(prepared.model.folder, folder),
            "merge": _merge_of(prepared.model.folder),
        },
        "data": {"train": prepared.data.train_fingerprint(), "held_out": prepared.data.held_out_fingerprint()},
        "task": {"name": prepared.task.name, "labels": list(prepared.task.labels)},
        "seed": resolved.seed,
        "environment": environment(prepared.host),
        "counts": {
            "steps": finished.result.steps,
            "tokens": finished.result.tokens,
            "trained_tokens": finished.result.trained_tokens,
            "train_rows": len(prepared.train.items),
            "held_out_rows": len(finished.held_out.items),
        },
        "exports": list(finished.exports),
        "files": {path.relative_to(folder).as_posix(): _described(path) for path in kept if path.exists()},
    }


def _left_out(store: TokenStore) -> int:
    """Rows that are not in a store since they are too long, or cannot be learned, and skipping them was asked for."""
    return int(store.facts["skipped"]) + int(store.facts["unusable"])


def _merge_of(base: Path) -> Any:
    """How far scores moved when the adapter of an earlier run was worked into the base; None where there was none."""
    return read_json(base / MERGE) if (base / MERGE).is_file() else None


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def now() -> str:
    """The time in UTC, for reports."""
    return datetime.now(UTC).isoformat(timespec="seconds")
