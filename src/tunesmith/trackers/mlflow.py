"""MLflow: the server that MLFLOW_TRACKING_URI names, or files in the run's folder.

Every attempt of a run is one MLflow run of that name in the experiment that MLFLOW_EXPERIMENT_NAME names
(default ``tunesmith``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LONGEST_PARAMETER = 6000  # what MLflow takes
_STATES = {"finished": "FINISHED", "stopped": "KILLED", "cancelled": "KILLED", "failed": "FAILED", "open": "KILLED"}


def open_mlflow(run_name: str, folder: Path) -> MlflowSink:
    """Start an MLflow run."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        uri = folder.absolute().as_uri()
        # MLflow has stopped developing its file store and wants to be told that one means it. It needs no database.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    # Nobody else learns of a run unless the user says so; the library counts its uses at its makers' otherwise.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "tunesmith")
    experiment = client.get_experiment_by_name(name)
    experiment_id = client.create_experiment(name) if experiment is None else experiment.experiment_id
    run = client.create_run(experiment_id, run_name=run_name)
    return MlflowSink(client, run.info.run_id)


class MlflowSink:
    """Parameters and metrics of one MLflow run."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    def parameters(self, values: Mapping[str, str]) -> None:
        """Log parameters; a text too long for MLflow ends in an ellipsis."""
        for key, value in values.items():
            shown = value if len(value) <= _LONGEST_PARAMETER else value[: _LONGEST_PARAMETER - 1] + "…"
            self._client.log_param(self._run_id, key, shown)

    def scalars(self, values: Mapping[str, float], step: int, time_seconds: float) -> None:
        """Log metrics in one call."""
        from mlflow.entities import Metric

        metrics = [Metric(name, value, round(time_seconds * 1000), step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def end(self, state: str) -> None:
        """Give the MLflow run its last state."""
        self._client.set_terminated(self._run_id, _STATES[state])
