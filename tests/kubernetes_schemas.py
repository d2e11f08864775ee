"""Whether an API server would take a manifest: custom resources by their published schemas, the rest by the official
client's models, unknown fields refused in both.

The schemas are read from the folder that TUNESMITH_TEST_SCHEMAS names (default ``../shared/schemas``). Rules that a
cluster computes (CEL, webhooks) are not among them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SCHEMAS = Path(os.environ.get("TUNESMITH_TEST_SCHEMAS", ROOT.parent / "shared" / "schemas"))
FILES = {
    "TrainJob": "kubeflow.trainer.manifests.base.crds.trainer.kubeflow.org_trainjobs.yaml",
    "ClusterTrainingRuntime": "kubeflow.trainer.manifests.base.crds.trainer.kubeflow.org_clustertrainingruntimes.yaml",
    "RayJob": "ray-project.kuberay.ray-operator.config.crd.bases.ray.io_rayjobs.v1-only.yaml",
}
MODELS = {
    ("batch/v1", "Job"): "V1Job",
    ("apps/v1", "Deployment"): "V1Deployment",
    ("v1", "Service"): "V1Service",
    ("v1", "PersistentVolumeClaim"): "V1PersistentVolumeClaim",
    ("v1", "ServiceAccount"): "V1ServiceAccount",
    ("rbac.authorization.k8s.io/v1", "Role"): "V1Role",
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): "V1RoleBinding",
}
_PRIMITIVE = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "datetime": (str,)}
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def require_schemas(*kinds: str) -> None:
    """Skip the test, and say so, where the schemas of these kinds are not here."""
    missing = [kind for kind in kinds if not (SCHEMAS / FILES[kind]).is_file()]
    if missing:
        pytest.skip(f"no schemas of {', '.join(missing)}: set TUNESMITH_TEST_SCHEMAS (looked in {SCHEMAS})")


def has_schema(kind: str) -> bool:
    """Whether the schema of a custom resource is here."""
    return (SCHEMAS / FILES[kind]).is_file()


def problems_of(manifest: Mapping[str, Any]) -> list[str]:
    """What an API server would refuse in a manifest; empty for one that it takes."""
    found = [*_metadata_problems(manifest.get("metadata", {}))]
    kind = str(manifest.get("kind"))
    if kind in FILES:
        validator = _validator(kind)
        found += [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(manifest)]
        return found + list(_model_problems(manifest.get("metadata", {}), "V1ObjectMeta", "metadata"))
    model = MODELS.get((str(manifest.get("apiVersion")), kind))
    if model is None:
        return [f"no such kind: {manifest.get('apiVersion')} {kind}"]
    return found + list(_model_problems(manifest, model, kind))


def _metadata_problems(metadata: Mapping[str, Any]) -> Iterator[str]:
    if not _NAME.fullmatch(str(metadata.get("name", ""))):
        yield f"metadata.name: {metadata.get('name')!r}"
    for key, value in (metadata.get("labels") or {}).items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL.fullmatch(value):
            yield f"metadata.labels: {key}: {value!r}"


@cache
def _validator(kind: str) -> Any:
    definition = yaml.load((SCHEMAS / FILES[kind]).read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (schema,) = [one["schema"]["openAPIV3Schema"] for one in definition["spec"]["versions"] if one["storage"]]
    (version,) = [one["name"] for one in definition["spec"]["versions"] if one["storage"]]
    strict = _strict(schema)
    strict["properties"] |= {
        "apiVersion": {"const": f"{definition['spec']['group']}/{version}"},
        "kind": {"const": kind},
        "metadata": {"type": "object"},
    }
    strict["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return jsonschema.Draft202012Validator(strict)


def _strict(schema: Any) -> Any:
    """The same, with fields that it does not name refused, as ``fieldValidation=Strict`` does."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _strict(value) for key, value in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_ended:
        found["additionalProperties"] = False
    return found


def _model_problems(value: Any, kind: str, place: str) -> Iterator[str]:
    """Problems of a value that should be of a model's type, as the client writes types: ``list[V1Container]``."""
    listed = re.fullmatch(r"[Ll]ist\[(.+)\]", kind)
    mapped = re.fullmatch(r"dict\(str, (.+)\)|[Dd]ict\[str, (.+)\]", kind)
    if kind == "object":
        return
    if listed:
        if not isinstance(value, list):
            yield f"{place}: not a list"
            return
        for number, one in enumerate(value):
            yield from _model_problems(one, listed[1], f"{place}[{number}]")
    elif mapped:
        if not isinstance(value, dict):
            yield f"{place}: not a map"
            return
        for key, one in value.items():
            yield from _model_problems(one, mapped[1] or mapped[2], f"{place}.{key}")
    elif kind in _PRIMITIVE:
        if not isinstance(value, _PRIMITIVE[kind]) or (isinstance(value, bool) and kind != "bool"):
            yield f"{place}: not of type {kind}: {value!r}"
    else:
        yield from _object_problems(value, kind, place)


def _object_problems(value: Any, kind: str, place: str) -> Iterator[str]:
    from kubernetes import client

    model = getattr(client, kind)
    if not isinstance(value, dict):
        yield f"{place}: not an object"
        return
    attributes = {written: name for name, written in model.attribute_map.items()}
    for key in value.keys() - attributes.keys():
        yield f"{place}: unknown field {key!r}"
    known = {attributes[key]: one for key, one in value.items() if key in attributes}
    try:
        model(**known)
    except ValueError as error:
        yield f"{place}: {error}"
    for name, one in known.items():
        yield from _model_problems(one, model.openapi_types[name], f"{place}.{model.attribute_map[name]}")
