"""A small API server with KAITO on loopback: it takes what the real one takes, and plays a tuning.

with serve_kaito(folder) as kaito:             # kaito.kubeconfig names it; only its token is let in
    kaito.next_play = "fail"                   # what the next Workspace comes to: succeed, fail or wait

Workspaces are checked against KAITO's own schema with unknown fields refused, then by the rules of its webhook as its
source has them. Each time that a Workspace is asked for, its tuning is one phase further.
"""

from __future__ import annotations

import copy
import ipaddress
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "planted-cluster-token-5e21"
CRD = "kaito-project.kaito.config.crd.bases.kaito.sh_workspaces.yaml"
Play = Literal["succeed", "fail", "wait"]

SECTIONS = ("ModelConfig", "QuantizationConfig", "LoraConfig", "TrainingArguments", "DatasetConfig", "DataCollator")
TUNING_PRESETS = (
    "phi-4",
    "phi-4-mini-instruct",
    "phi-3-mini-4k-instruct",
    "phi-3-mini-128k-instruct",
    "phi-3-medium-4k-instruct",
    "phi-3-medium-128k-instruct",
    "phi-3.5-mini-instruct",
    "mistral-7b-v0.3",
    "qwen2.5-coder-7b-instruct",
    "qwen2.5-coder-32b-instruct",
)
LOSSES = (2.1, 1.7, 1.4, 1.25)
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_METADATA = {"name", "namespace", "labels", "annotations"}
_NOW = "2026-11-29T12:00:00Z"


@cache
def workspace_schema() -> dict[str, Any]:
    """KAITO's schema of v1beta1, with unknown fields refused; the test is skipped where the schemas are not here."""
    folder = Path(os.environ.get("TUNESMITH_TEST_SCHEMAS", ROOT.parent / "shared" / "schemas"))
    if not (folder / CRD).is_file():
        pytest.skip(f"no schema of KAITO: set TUNESMITH_TEST_SCHEMAS (looked in {folder})")
    definition = yaml.safe_load((folder / CRD).read_text())
    version = next(one for one in definition["spec"]["versions"] if one["storage"])
    assert version["name"] == "v1beta1"
    return strict(version["schema"]["openAPIV3Schema"])


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema that takes no field that it does not name."""
    found = copy.deepcopy(schema)
    if "properties" in found:
        found["properties"] = {name: strict(one) for name, one in found["properties"].items()}
        if not found.get("x-kubernetes-preserve-unknown-fields"):
            found["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(found.get(key), dict):
            found[key] = strict(found[key])
    return found


@dataclass
class Tuning:
    """A Workspace that was made, and how far it is."""

    content: dict[str, Any]
    play: Play
    phase: int = 0


@dataclass
class FakeKaito:
    """What lies in the cluster, by namespace and name, and what was asked."""

    schema: dict[str, Any]
    kubeconfig: Path
    next_play: Play = "succeed"
    config_maps: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    workspaces: dict[tuple[str, str], Tuning] = field(default_factory=dict)
    made: int = 0
    bodies: list[str] = field(default_factory=list)
    asked: set[tuple[str, str]] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Refused(Exception):
    """An answer with a status other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def check_workspace(kaito: FakeKaito, namespace: str, content: dict[str, Any]) -> None:
    """The schema, then the webhook."""
    try:
        jsonschema.validate(content, kaito.schema)
    except jsonschema.ValidationError as error:
        raise Refused(422, f"{'.'.join(map(str, error.absolute_path))}: {error.message}") from error
    unknown = set(content["metadata"]) - _METADATA
    if unknown:
        raise Refused(422, f"metadata: unknown fields {unknown}")
    if not _LABEL.fullmatch(content["metadata"]["name"]):
        raise Refused(400, "name: not a label of the DNS")
    if ("tuning" in content) == ("inference" in content):
        raise Refused(400, "Either Inference or Tuning must be specified, one of them")
    if not content["resource"].get("instanceType"):
        raise Refused(400, "instanceType is required when node auto-provisioning is enabled")
    if "tuning" in content:
        _check_tuning(kaito, namespace, content)
    for adapter in content.get("inference", {}).get("adapters", []):
        source = adapter["source"]
        if not _SUBDOMAIN.fullmatch(source.get("name", "")) or ("image" in source) == ("volumeSource" in source):
            raise Refused(400, "adapters.source")
        if "urls" in source or not 0 <= float(adapter.get("strength", "1.0")) <= 1:
            raise Refused(400, "adapters")
    config = content.get("inference", {}).get("config")
    if config is not None and "inference_config.yaml" not in kaito.config_maps[namespace, config]["data"]:
        raise Refused(400, "inference_config.yaml")


def _check_tuning(kaito: FakeKaito, namespace: str, content: dict[str, Any]) -> None:
    tuning = content["tuning"]
    if content["resource"].get("count", 1) > 1 or "partition" in content["resource"]:
        raise Refused(400, "Tuning does not currently support multinode configurations")
    if tuning.get("method") not in ("lora", "qlora"):
        raise Refused(400, "Method")
    if tuning.get("preset", {}).get("name") not in TUNING_PRESETS:
        raise Refused(400, "Unsupported tuning preset name")
    given, output = tuning["input"], tuning["output"]
    if sum(name in given for name in ("urls", "image", "volumeSource")) != 1:
        raise Refused(400, "Exactly one of URLs, Volume, or Image must be specified")
    for url in given.get("urls", []):
        _check_url(url)
    if ("image" in output) == ("volumeSource" in output):
        raise Refused(400, "Exactly one of Volume or Image must be specified")
    if "image" in output and not output.get("imagePushSecret"):
        raise Refused(400, "Must specify imagePushSecret with destination image")
    if tuning.get("config") is not None:
        found = kaito.config_maps.get((namespace, tuning["config"]))
        if found is None:
            raise Refused(400, f"ConfigMap '{tuning['config']}' specified in 'config' not found")
        check_config(found, tuning["method"])


def check_config(config_map: dict[str, Any], method: str) -> None:
    """What the webhook says of a ConfigMap, and what its parser can read: each value is one argument of a command."""
    sections = yaml.safe_load(config_map["data"]["training_config.yaml"])["training_config"]
    unknown = set(sections) - set(SECTIONS)
    if unknown:
        raise Refused(400, f"Unrecognized section: {unknown}")
    quantization = sections.get("QuantizationConfig", {})
    four, eight = quantization.get("load_in_4bit"), quantization.get("load_in_8bit")
    if not all(one in (None, True, False) for one in (four, eight)) or (four and eight):
        raise Refused(400, "Cannot set both 'load_in_4bit' and 'load_in_8bit' to true")
    if bool(four or eight) != (method == "qlora"):
        raise Refused(400, f"For method '{method}': load_in_4bit, load_in_8bit")
    output = os.path.normpath(f"/mnt/{sections['TrainingArguments'].get('output_dir', '')}")
    if output == "/mnt" or not output.startswith("/mnt"):
        raise Refused(400, "Invalid output_dir specified, must be a directory")
    for name, section in sections.items():
        if any(isinstance(value, dict) for value in section.values()):
            raise Refused(400, f"{name}: a map becomes arguments that nobody knows")


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        raise Refused(400, "data source URL must use HTTP or HTTPS")
    if host == "localhost" or host.endswith(".localhost") or host in ("metadata.google.internal", "metadata.google"):
        raise Refused(400, "data source URL must not target a local or metadata endpoint")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    if address.is_loopback or address.is_private or address.is_link_local:
        raise Refused(400, "data source URL must not target a loopback, private, or link-local address")


def trainer_log(steps: int, total: int, *, fails: bool = False) -> str:
    """What Transformers prints of some steps, and of a failure."""
    lines = ["training_config: {'ModelConfig': {'torch_dtype': 'bfloat16'}}"]
    lines.append("Loading weights: 100%|██████████| 290/290 [00:03<00:00, 88.2it/s]")
    lines.append("trainable params: 25,165,824 || all params: 3,846,245,376 || trainable%: 0.6543")
    text = "\n".join(lines) + f"\n\r  0%|          | 0/{total} [00:00<?, ?it/s]"
    for number in range(1, steps + 1):
        bar = f"\r {100 * number // total:2d}%|█         | {number}/{total} [00:0{number}<00:02,  1.01s/it]"
        printed = {
            "loss": f"{LOSSES[number - 1]:.4g}",
            "grad_norm": "0.81",
            "learning_rate": "0.0001",
            "epoch": f"{number / total:.4g}",
        }
        text += f"{bar}\r{' ' * 40}\r{printed}\n{bar}"
    if fails:
        text += "\nTraceback (most recent call last):\n  File 'fine_tuning.py', line 130, in <module>\n"
        text += "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n"
    return text


def status_of(tuning: Tuning) -> dict[str, Any]:
    """The status of a Workspace in its phase."""
    if "inference" in tuning.content:
        names = ("ResourceReady", "InferenceReady")
        conditions = [_condition(name, tuning.phase > number) for number, name in enumerate(names)]
        return {"state": "Ready" if tuning.phase > 1 else "Pending", "conditions": conditions}
    ended = tuning.phase >= 4 and tuning.play != "wait"
    fails = ended and tuning.play == "fail"
    conditions = [
        _condition("ResourceReady", tuning.phase >= 1),
        _condition("JobStarted", tuning.phase >= 2 and not fails),
    ]
    if fails:
        conditions.append(_condition("WorkspaceSucceeded", False, "workspaceFailed", "tuning job failed"))
    else:
        conditions.append(_condition("WorkspaceSucceeded", ended))
    state = "Failed" if fails else "Succeeded" if ended else "Running" if tuning.phase >= 2 else "Pending"
    return {"state": state, "conditions": conditions}


def _condition(name: str, holds: bool, reason: str = "", message: str = "") -> dict[str, Any]:
    return {
        "type": name,
        "status": "True" if holds else "False",
        "reason": reason or f"{name}{'Done' if holds else 'Pending'}",
        "message": message or f"{name} is {'there' if holds else 'waited for'}",
        "lastTransitionTime": _NOW,
    }


def pod_of(name: str, tuning: Tuning) -> dict[str, Any]:
    """The pod of the Job that KAITO makes."""
    failed = tuning.play == "fail" and tuning.phase >= 4
    ended = {"terminated": {"exitCode": 1, "reason": "Error"}}
    state = ended if failed else {"running": {"startedAt": _NOW}}
    common = {"image": "i", "imageID": "", "ready": not failed, "restartCount": 0}
    return {
        "metadata": {"name": f"{name}-x7k2p", "labels": {"job-name": name}, "creationTimestamp": _NOW},
        "spec": {"containers": [{"name": name}]},
        "status": {
            "phase": "Failed" if failed else "Running",
            "containerStatuses": [{**common, "name": name, "state": state}],
        },
    }


@contextmanager
def serve_kaito(folder: Path) -> Iterator[FakeKaito]:
    """The server, until the block ends."""
    kaito = FakeKaito(workspace_schema(), folder / "kubeconfig")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(kaito))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    kaito.kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "fake", "cluster": {"server": url}}],
                "users": [{"name": "me", "user": {"token": TOKEN}}],
                "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me"}}],
                "current-context": "fake",
            }
        )
    )
    try:
        yield kaito
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(kaito: FakeKaito) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(lambda words, query, _: _read(kaito, words, query))

        def do_POST(self) -> None:
            self._answer(lambda words, _, body: _create(kaito, words, body))

        def do_PATCH(self) -> None:
            self._answer(lambda words, _, body: _patch(kaito, words, body))

        def do_DELETE(self) -> None:
            self._answer(lambda words, _query, _body: _delete(kaito, words))

        def _answer(self, act: Any) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            try:
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    raise Refused(401, "Unauthorized")
                words = _words(parts.path)
                with kaito.lock:
                    kaito.bodies.append(sent)
                    kaito.asked.add(_permission(self.command, words))
                    status, found = 200, act(words, query, json.loads(sent) if sent else {})
            except Refused as refused:
                status = refused.status
                found = {"kind": "Status", "status": "Failure", "message": str(refused), "code": status}
            text = found if isinstance(found, str) else json.dumps(found)
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(found, str) else "application/json")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *arguments: Any) -> None:
            """Not to the terminal."""

    return Handler


def _words(path: str) -> list[str]:
    """namespace, kind, name, and what is wanted of it."""
    for prefix in ("/api/v1/namespaces/", "/apis/kaito.sh/v1beta1/namespaces/"):
        if path.startswith(prefix):
            return path.removeprefix(prefix).split("/")
    raise Refused(404, f"the server could not find the requested resource {path}")


def _permission(method: str, words: list[str]) -> tuple[str, str]:
    """What a role must allow: the resource and the verb."""
    verbs = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}
    reads = "get" if len(words) > 2 else "list"
    return "/".join([words[1], *words[3:]]), verbs.get(method, reads)


def _read(kaito: FakeKaito, words: list[str], query: dict[str, str]) -> Any:
    namespace, kind, *rest = words
    if kind == "configmaps" and not rest:
        name, _, value = query["labelSelector"].partition("=")
        found = [one for (place, _), one in kaito.config_maps.items() if place == namespace]
        return {
            "kind": "ConfigMapList",
            "items": [one for one in found if one["metadata"].get("labels", {}).get(name) == value],
        }
    if kind == "configmaps":
        return _known(kaito.config_maps, namespace, rest[0])
    if kind == "workspaces":
        tuning = _known(kaito.workspaces, namespace, rest[0])
        answer = {**tuning.content, "status": status_of(tuning)}
        jsonschema.validate(answer, kaito.schema)
        tuning.phase += 1
        return answer
    if kind == "pods" and not rest:
        name = query["labelSelector"].removeprefix("job-name=")
        tuning = kaito.workspaces.get((namespace, name))
        pods = [pod_of(name, tuning)] if tuning is not None and tuning.phase >= 2 else []
        return {"kind": "PodList", "items": pods}
    name = rest[0].removesuffix("-x7k2p")
    tuning = _known(kaito.workspaces, namespace, name)
    assert query["container"] == name
    if tuning.phase < 2:
        raise Refused(400, f"container {name} is waiting to start")
    fails = tuning.play == "fail" and tuning.phase >= 4
    return trainer_log(min(tuning.phase, len(LOSSES)), len(LOSSES), fails=fails)


def _create(kaito: FakeKaito, words: list[str], body: dict[str, Any]) -> Any:
    namespace, kind = words
    name = body["metadata"]["name"]
    if kind == "workspaces":
        check_workspace(kaito, namespace, body)
        if (namespace, name) in kaito.workspaces:
            raise Refused(409, f'workspaces.kaito.sh "{name}" already exists')
        kaito.workspaces[namespace, name] = Tuning(body, kaito.next_play)
        kaito.made += 1
    else:
        if (namespace, name) in kaito.config_maps:
            raise Refused(409, f'configmaps "{name}" already exists')
        kaito.config_maps[namespace, name] = body
    return body


def _patch(kaito: FakeKaito, words: list[str], body: dict[str, Any]) -> Any:
    found = _known(kaito.config_maps, words[0], words[2])
    found["metadata"].setdefault("annotations", {}).update(body["metadata"]["annotations"])
    return found


def _delete(kaito: FakeKaito, words: list[str]) -> Any:
    namespace, kind, name = words
    table: Any = kaito.workspaces if kind == "workspaces" else kaito.config_maps
    _known(table, namespace, name)
    del table[namespace, name]
    return {"kind": "Status", "status": "Success"}


def _known(table: Any, namespace: str, name: str) -> Any:
    if (namespace, name) not in table:
        raise Refused(404, f'"{name}" not found')
    return table[namespace, name]
