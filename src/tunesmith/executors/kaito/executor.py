"""KAITO's tuning Workspaces: its trainer works, and what it says becomes events of the run.

The ConfigMap of a tuning outlives its Workspace: it holds the key and says whether the tuning was cancelled, which the
cluster would else not know once the Workspace is gone.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tunesmith.errors import RunError, WorkerError
from tunesmith.executors.kaito.adapter import adapter_manifest, pull_adapter
from tunesmith.executors.kaito.cluster import Cluster, open_cluster
from tunesmith.executors.kaito.limits import warnings_for
from tunesmith.executors.kaito.manifests import KEY_LABEL, key_label, manifest_text, rows_name, tuning_objects
from tunesmith.executors.kaito.presets import find_preset
from tunesmith.executors.kaito.progress import read_steps
from tunesmith.executors.kaito.rows import HELD_OUT, TRAIN, write_rows
from tunesmith.executors.kaito.state import WorkspaceState, failure_reason, log_of, state_of
from tunesmith.executors.protocol import Handle, JobState, JobStatus, Submission, Told
from tunesmith.recipe.executors.kaito import Kaito
from tunesmith.runs.atomic import write_json
from tunesmith.storage.address import open_store

CANCELLED = "tunesmith.dev/cancelled"
RESULT = "kaito.json"
ADAPTER_FOLDER = "adapter"
_JOB_STATES: Mapping[str, JobState] = {
    "queued": "queued",
    "preparing": "queued",
    "training": "running",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
    "gone": "lost",
}


class KaitoExecutor:
    """See :class:`tunesmith.executors.protocol.Executor`; also renders, and tells."""

    def __init__(self, spec: Kaito) -> None:
        self._spec = spec

    def render(self, submission: Submission) -> Mapping[str, str]:
        """The manifests, the rows in the form that KAITO takes, and what it does not follow."""
        config_map, workspace = tuning_objects(submission, self._spec)
        with tempfile.TemporaryDirectory() as scratch:
            write_rows(submission, Path(scratch))
            rows = {f"data/{name}": (Path(scratch) / name).read_text("utf-8") for name in (TRAIN, HELD_OUT)}
        told = "".join(f"- {warning}\n" for warning in warnings_for(submission.recipe, self._spec))
        return {"workspace.yaml": manifest_text(config_map, workspace), "notes.md": told, **rows}

    def submit(self, submission: Submission) -> Handle:
        """Put the rows where the recipe says, and make ConfigMap and Workspace.

        Raises:
            RecipeError: KAITO cannot do what the recipe asks for; all of it is named.
            DataError: The rows cannot be used.
            UsageError: There is no way to the cluster, or it does not take what is sent.
            NetworkError: The cluster or the store does not answer.
        """
        config_map, workspace = tuning_objects(submission, self._spec)
        cluster, name = self._cluster, workspace["metadata"]["name"]
        for known in cluster.config_maps(f"{KEY_LABEL}={key_label(submission.key)}"):
            found = known.metadata.name
            # One of ours without a Workspace is what a submission left that broke off in between.
            if _is_cancelled(known) or found != name or cluster.workspace(found) is not None:
                return self._handle(submission, found)
        self._put_rows(submission)
        if not cluster.create_of_key(workspace, [config_map], KEY_LABEL):
            raise RunError(
                "another Workspace has this name", code="run.exists", place=name, hint="choose another --name"
            )
        return self._handle(submission, name)

    def status(self, handle: Handle) -> JobStatus:
        """See :class:`tunesmith.executors.protocol.Executor`."""
        cluster, state = self._look(handle)
        reason = failure_reason(cluster, handle["name"], state) if state.name == "failed" else None
        return JobStatus(_JOB_STATES[state.name], state.words, reason)

    def logs(self, handle: Handle) -> Iterator[str]:
        """What KAITO's trainer has printed; of a bar that was drawn over and over its last state."""
        for line in log_of(self._cluster, handle["name"]).split("\n"):
            shown = line.rstrip("\r").rsplit("\r", 1)[-1]
            if shown:
                yield shown

    def cancel(self, handle: Handle) -> None:
        """Take the Workspace away; one that has ended stays, with its log."""
        cluster, state = self._look(handle)
        if state.name in ("queued", "preparing", "training"):
            cluster.annotate_config_map(handle["name"], {CANCELLED: "true"})
            cluster.delete_workspace(handle["name"])

    def tell(self, handle: Handle, cursor: str | None) -> tuple[Sequence[Told], str | None]:
        """See :class:`tunesmith.executors.protocol.Tells`; the cursor holds the last state and the last step."""
        before: dict[str, Any] = {"state": "", "step": 0}
        known: dict[str, Any] = {} if cursor is None else json.loads(cursor)
        # A tuning that was submitted anew is another Workspace.
        if known.get("name") == handle["name"]:
            before = known
        cluster, state = self._look(handle)
        told: list[Told] = []
        if not known:
            told.extend(Told("warning", {"code": "kaito.limits", "message": text}) for text in handle["warnings"])
        steps = list(_new_steps(log_of(cluster, handle["name"]), before["step"]))
        name = "training" if steps and state.name == "preparing" else state.name
        if before["state"] in ("", "preparing") and (name == "training" or steps):
            told.append(Told("status", {"state": "training", "detail": "KAITO's trainer has begun"}))
        elif before["state"] == "" and name == "preparing":
            told.append(Told("status", {"state": "preparing", "detail": state.words}))
        told.extend(steps)
        if name != before["state"]:
            told.extend(_ending(cluster, handle, state))
        last = max([before["step"], *(one.step or 0 for one in steps)])
        return told, json.dumps({"name": handle["name"], "state": "" if name == "queued" else name, "step": last})

    def fetch(self, handle: Handle, folder: Path) -> Sequence[Path]:
        """Write where the adapter is, and bring it here where it is an image whose registry gives it."""
        files: list[Path] = []
        why: str | None = "it lies on a volume of the cluster"
        if handle["output"]["image"] is not None:
            files, why = pull_adapter(handle["output"]["image"], folder / ADAPTER_FOLDER, handle["base"])
        record = {"format": 1, "adapter": _place_of(handle), "base": handle["base"], "preset": handle["preset"]}
        write_json(folder / RESULT, {**record, "brought_here": bool(files), "why_not": why})
        if not files:
            return [folder / RESULT]
        # Written last, as of every run: it says that all is there.
        manifest = folder / "manifest.json"
        write_json(manifest, adapter_manifest(folder, files, handle["base"], handle["seed"]))
        return [folder / RESULT, *files, manifest]

    @cached_property
    def _cluster(self) -> Cluster:
        return open_cluster(self._spec.namespace, self._spec.context)

    def _look(self, handle: Handle) -> tuple[Cluster, WorkspaceState]:
        cluster = self._cluster
        workspace = cluster.workspace(handle["name"])
        if workspace is not None and workspace["metadata"].get("deletionTimestamp") is None:
            return cluster, state_of(workspace)
        known = cluster.config_map(handle["name"])
        if known is not None and _is_cancelled(known):
            return cluster, WorkspaceState("cancelled", "cancelled; its Workspace was taken away")
        return cluster, WorkspaceState("gone", "the cluster has no such Workspace")

    def _put_rows(self, submission: Submission) -> None:
        if self._spec.input.store is None:
            return
        with tempfile.TemporaryDirectory() as scratch:
            write_rows(submission, Path(scratch))
            open_store(self._spec.input.store).put(Path(scratch) / TRAIN, rows_name(submission, self._spec))

    def _handle(self, submission: Submission, name: str) -> Handle:
        preset = find_preset(submission.recipe.model, self._spec)
        return {
            "name": name,
            "namespace": self._spec.namespace,
            "context": self._spec.context,
            "preset": preset.name,
            "base": preset.hub_id,
            "seed": submission.recipe.train.seed,
            "output": {"image": self._spec.output.image, "volume_claim": self._spec.output.volume_claim},
            "warnings": warnings_for(submission.recipe, self._spec),
        }


def _is_cancelled(config_map: Any) -> bool:
    return CANCELLED in (config_map.metadata.annotations or {})


def _place_of(handle: Handle) -> str:
    output = handle["output"]
    return f"oci://{output['image']}" if output["image"] is not None else f"volume claim {output['volume_claim']}"


def _new_steps(log: str, after: int) -> Iterator[Told]:
    for step in read_steps(log):
        if step.number > after:
            yield Told("step", {**step.values, "total_steps": step.total}, step.number)


def _ending(cluster: Cluster, handle: Handle, state: WorkspaceState) -> list[Told]:
    if state.name == "succeeded":
        place = {"kind": "adapter", "path": ADAPTER_FOLDER, "place": _place_of(handle)}
        return [Told("artifact", place), Told("status", {"state": "finished"})]
    if state.name == "cancelled":
        return [Told("status", {"state": "cancelled"})]
    if state.name != "failed":
        return []
    error = WorkerError(
        "the tuning failed",
        code="kaito.failed",
        place=handle["name"],
        value=failure_reason(cluster, handle["name"], state),
        hint="tunesmith jobs logs shows what KAITO's trainer has printed",
    )
    return [Told("status", {"state": "failed"}), Told("error", error.to_json())]
