"""The Workspace and the ConfigMap of a tuning, as pure functions of a submission."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import yaml

from tunesmith.executors.kaito.config import CONFIG_KEY, config_text, training_config
from tunesmith.executors.kaito.limits import require_possible
from tunesmith.executors.kaito.presets import Preset, find_preset
from tunesmith.executors.protocol import Submission
from tunesmith.recipe.executors.kaito import Kaito, KaitoCluster, KaitoInput
from tunesmith.recipe.techniques import Lora, Qlora

API_VERSION = "kaito.sh/v1beta1"
KEY_LABEL = "tunesmith.dev/key"
RUN_ANNOTATION = "tunesmith.dev/run"
_DATA_FOLDER = "data"
# The Job and its pods are named like the Workspace, with more behind it.
_LONGEST_STEM = 30
_KEY_DIGITS = 40


def object_name(name: str, key: str) -> str:
    """The name of what is made for a submission: the same for the same run and key, and one that the DNS takes."""
    stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_LONGEST_STEM].strip("-")
    start = stem if stem[:1].isalpha() else f"run-{stem}"
    return f"{start.rstrip('-')}-{hashlib.sha256(f'{name} {key}'.encode()).hexdigest()[:10]}"


def key_label(key: str) -> str:
    """A key of any text as the value of a label."""
    return hashlib.sha256(key.encode()).hexdigest()[:_KEY_DIGITS]


def rows_name(submission: Submission, spec: Kaito) -> str:
    """Under which name the rows of a submission are put into a store."""
    return spec.input.file or f"{object_name(submission.name, submission.key)}.jsonl"


def tuning_objects(submission: Submission, spec: Kaito) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ConfigMap and the Workspace.

    Raises:
        RecipeError: KAITO has no preset for the model, or cannot do what the recipe asks for; all of it is named.
    """
    recipe = submission.recipe
    preset = find_preset(recipe.model, spec)
    require_possible(recipe, spec, preset)
    config = training_config(recipe, spec, preset, _data_path(submission, spec))
    metadata = _metadata(submission, spec)
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {CONFIG_KEY: config_text(config)},
    }
    technique = recipe.technique
    assert isinstance(technique, Lora | Qlora)
    workspace = {
        "apiVersion": API_VERSION,
        "kind": "Workspace",
        "metadata": metadata,
        "resource": node_resource(spec, metadata["name"]),
        "tuning": {
            "preset": _preset(preset, spec),
            "method": technique.name,
            "config": metadata["name"],
            "input": _input(submission, spec),
            "output": _output(spec),
        },
    }
    return config_map, workspace


def node_resource(spec: KaitoCluster, name: str) -> dict[str, Any]:
    """Which nodes: KAITO wants a label selector even where it makes them, and puts those labels on them."""
    found: dict[str, Any] = {} if spec.instance_type is None else {"instanceType": spec.instance_type}
    return {**found, "labelSelector": {"matchLabels": dict(spec.labels) or {"tunesmith.dev/workspace": name}}}


def claim(name: str) -> dict[str, Any]:
    """A claim as the source of a volume."""
    return {"persistentVolumeClaim": {"claimName": name}}


def manifest_text(*objects: Mapping[str, Any]) -> str:
    """Objects as one YAML text, as ``kubectl apply`` takes it."""
    text: str = yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=120)
    return text


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and everything as often as it is there."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  (named by the library)
        return True


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _block)


def _metadata(submission: Submission, spec: Kaito) -> dict[str, Any]:
    return {
        "name": object_name(submission.name, submission.key),
        "namespace": spec.namespace,
        "labels": {KEY_LABEL: key_label(submission.key), "app.kubernetes.io/managed-by": "tunesmith"},
        "annotations": {RUN_ANNOTATION: submission.name},
    }


def _preset(preset: Preset, spec: Kaito) -> dict[str, Any]:
    found: dict[str, Any] = {"name": preset.name}
    if spec.model_access_secret is not None:
        found["presetOptions"] = {"modelAccessSecret": spec.model_access_secret}
    return found


def _input(submission: Submission, spec: Kaito) -> dict[str, Any]:
    given: KaitoInput = spec.input
    if given.url is not None:
        return {"urls": [_file_url(submission, spec)]}
    if given.volume_claim is not None:
        return {"volumeSource": claim(given.volume_claim)}
    secrets = {"imagePullSecrets": list(given.pull_secrets)} if given.pull_secrets else {}
    return {"image": given.image, **secrets}


def _file_url(submission: Submission, spec: Kaito) -> str:
    """With a store the url is that of a folder, for the file's name is of the submission."""
    assert spec.input.url is not None
    if spec.input.store is None:
        return spec.input.url
    return f"{spec.input.url.rstrip('/')}/{rows_name(submission, spec)}"


def _output(spec: Kaito) -> dict[str, Any]:
    if spec.output.volume_claim is not None:
        return {"volumeSource": claim(spec.output.volume_claim)}
    return {"image": spec.output.image, "imagePushSecret": spec.output.push_secret}


def _data_path(submission: Submission, spec: Kaito) -> str | None:
    """The file below ``/mnt``: KAITO else takes the first one whose name has a word such as json or arrow in it."""
    if spec.input.url is not None:
        # The downloader keeps the last part of the address.
        return f"{_DATA_FOLDER}/{_file_url(submission, spec).rsplit('/', 1)[-1]}"
    if spec.input.volume_claim is not None:
        return f"{_DATA_FOLDER}/{rows_name(submission, spec)}"
    return None
