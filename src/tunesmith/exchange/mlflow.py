"""MLflow's model registry, at the server or folder that MLFLOW_TRACKING_URI names: ``mlflow:NAME[/VERSION]``."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from tunesmith.errors import UsageError
from tunesmith.exchange.base import telling
from tunesmith.registry.blobs import OnProgress

_PLACE = re.compile(r"(?P<name>[A-Za-z0-9][\w. -]{0,99})(?:/(?P<version>\d{1,9}))?", re.ASCII)
_EXPERIMENT = "tunesmith registry"
_ARTIFACTS = "model"


class MlFlow:
    """See :class:`tunesmith.exchange.base.Exchange`."""

    def push(self, folder: Path, place: str, address: str, on_progress: OnProgress) -> str:
        """Log the folder as artifacts of an MLflow run with the measures, and make that a version of a model."""
        name, _ = _parse(place)
        with telling(f"mlflow:{place}", "trackers"):
            client = _client()
            from mlflow.exceptions import RestException

            on_progress("push", 0, None, "files")
            experiment = client.get_experiment_by_name(_EXPERIMENT)
            number = client.create_experiment(_EXPERIMENT) if experiment is None else experiment.experiment_id
            run = client.create_run(number, run_name=address, tags={"tunesmith.address": address})
            client.log_artifacts(run.info.run_id, str(folder), _ARTIFACTS)
            for metric, value in _measures(folder).items():
                client.log_metric(run.info.run_id, metric, value)
            client.set_terminated(run.info.run_id)
            if not any(one.name == name for one in client.search_registered_models(f"name='{name}'")):
                # Somebody else may have made it meanwhile; if not, the next call says what is wrong.
                with suppress(RestException):
                    client.create_registered_model(name)
            source = f"{run.info.artifact_uri}/{_ARTIFACTS}"
            made = client.create_model_version(name, source, run.info.run_id, description=f"{address} of Tunesmith")
            return f"mlflow:{name}/{made.version}"

    def pull(self, place: str, folder: Path, on_progress: OnProgress) -> None:
        """Download the artifacts of a version, the newest one unless it is named."""
        name, version = _parse(place)
        with telling(f"mlflow:{place}", "trackers"):
            client = _client()
            from mlflow.artifacts import download_artifacts

            on_progress("pull", 0, None, "files")
            if version is None:
                versions = [int(one.version) for one in client.search_model_versions(f"name='{name}'")]
                if not versions:
                    raise LookupError(f"no version of {name}")
                version = str(max(versions))
            uri = client.get_model_version_download_uri(name, version)
            # They come as a folder of their own name.
            came = Path(download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=_uri()))
            for path in () if came == folder else list(came.iterdir()):
                path.rename(folder / path.name)


def _uri() -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise UsageError(
            "which MLflow is meant is not known",
            code="usage.mlflow",
            hint="set MLFLOW_TRACKING_URI to the address of a server, or to a folder as file:///path",
        )
    return uri


def _client() -> Any:
    uri = _uri()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # What it prints would get into our output, and bars that it draws into ours.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if uri.startswith("file:"):
        # MLflow has stopped developing its file store and wants to be told that one means it.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _measures(folder: Path) -> dict[str, float]:
    record = orjson.loads((folder / "tunesmith" / "record.json").read_bytes())
    measures = record.get("metrics", {})
    return {
        f"{system}.{name}": float(value["value"])
        for system, values in measures.items()
        for name, value in values.items()
        if value.get("value") is not None
    }


def _parse(place: str) -> tuple[str, str | None]:
    match = _PLACE.fullmatch(place)
    if match is None:
        raise UsageError(
            "not the name of a model in MLflow",
            code="usage.target",
            value=f"mlflow:{place}",
            hint="mlflow:NAME[/VERSION]",
        )
    return match["name"], match["version"]
