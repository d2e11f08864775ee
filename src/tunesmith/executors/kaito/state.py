"""What the conditions of a Workspace and the pods of its Job mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.executors.kaito.cluster import Cluster
from tunesmith.executors.kaito.progress import last_words

# In the order in which they come true.
_CONDITIONS = ("ResourceReady", "JobStarted", "WorkspaceSucceeded")
_WORDS_CHARACTERS = 300


@dataclass(frozen=True)
class WorkspaceState:
    """``gone`` where the cluster knows nothing of it; ``words`` are the cluster's own."""

    name: Literal["queued", "preparing", "training", "succeeded", "failed", "cancelled", "gone"]
    words: str


def state_of(workspace: Mapping[str, Any]) -> WorkspaceState:
    """How a tuning Workspace is."""
    status = workspace.get("status") or {}
    conditions = conditions_of(workspace)
    summary = conditions.get("WorkspaceSucceeded", {})
    if holds(summary) or status.get("state") == "Succeeded":
        return WorkspaceState("succeeded", words_of(summary) or "Succeeded")
    # Before the end the summary is false as well; its reason tells one from the other.
    if status.get("state") == "Failed" or str(summary.get("reason", "")).lower() == "workspacefailed":
        return WorkspaceState("failed", words_of(summary) or "Failed")
    waiting = next((conditions[name] for name in _CONDITIONS if name in conditions and not holds(conditions[name])), {})
    words = words_of(waiting) or str(status.get("state") or "Pending")
    if holds(conditions.get("JobStarted", {})):
        return WorkspaceState("training", words)
    if holds(conditions.get("ResourceReady", {})):
        return WorkspaceState("preparing", words)
    return WorkspaceState("queued", words)


def conditions_of(workspace: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The conditions of a Workspace by their types."""
    return {str(one.get("type")): one for one in (workspace.get("status") or {}).get("conditions") or []}


def holds(condition: Mapping[str, Any]) -> bool:
    """Whether a condition is true; one that is not there is not."""
    return condition.get("status") == "True"


def words_of(condition: Mapping[str, Any]) -> str:
    """A condition in KAITO's words."""
    if not condition:
        return ""
    return f"{condition.get('type')}: {condition.get('message') or condition.get('reason')}"[:_WORDS_CHARACTERS]


def log_of(cluster: Cluster, name: str) -> str:
    """What the trainer of a tuning has printed, by its last pod."""
    pods = cluster.pods(name)
    return cluster.log(pods[-1].metadata.name, name) if pods else ""


def failure_reason(cluster: Cluster, name: str, state: WorkspaceState) -> str:
    """Why a tuning failed: KAITO's own words, the container that ended badly, and what it said of it."""
    parts = [state.words]
    for pod in cluster.pods(name)[-1:]:
        for container in [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]:
            ended = container.state.terminated if container.state is not None else None
            if ended is None or not ended.exit_code:
                continue
            why = f" ({ended.reason})" if ended.reason else ""
            parts.append(f"container {container.name} ended with code {ended.exit_code}{why}")
            said = last_words(cluster.log(pod.metadata.name, container.name))
            if said is not None:
                parts.append(said)
    return "; ".join(parts)
