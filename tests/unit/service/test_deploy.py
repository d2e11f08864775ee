"""The manifests of the hosted service: a cluster takes them, and the service takes what they tell it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_schemas import problems_of
from typer.main import get_command

from tunesmith.cli import service, up
from tunesmith.service.choices import settings_of

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "service"


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text("utf-8"))
    return found


def test_a_cluster_takes_them() -> None:
    pytest.importorskip("kubernetes")
    names = manifest("kustomization.yaml")["resources"]
    assert sorted([*names, "kustomization.yaml", "settings.yaml"]) == sorted(path.name for path in FOLDER.iterdir())
    assert [words for name in names for words in problems_of(manifest(name))] == []


def test_the_service_takes_the_settings() -> None:
    settings = settings_of(Path("/data/service"), manifest("settings.yaml"))
    (container,) = manifest("deployment.yaml")["spec"]["template"]["spec"]["containers"]
    assert container["ports"][0]["containerPort"] == settings.port
    assert (settings.host, settings.logs, settings.secure_cookies) == ("0.0.0.0", "stderr", True)


def test_the_commands_are_ours() -> None:
    spec = manifest("deployment.yaml")["spec"]["template"]["spec"]
    _, _, *options = spec["containers"][0]["command"]
    assert _parsed(get_command(up.app), options)["data_dir"] == Path("/data/service")
    (shell,) = [line for line in spec["initContainers"][0]["command"] if "tunesmith" in line]
    words = shell.split("||")[1].split(">")[0].split()
    assert words[:3] == ["tunesmith", "service", "key"]
    assert _parsed(get_command(service.app).commands["key"], words[3:])["config"] == Path("/settings/settings.yaml")


def _parsed(command: Any, options: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = command.make_context("x", list(options)).params
    return found


def test_kustomize_puts_them_together() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    made = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=True).stdout
    kinds = {one["kind"] for one in yaml.safe_load_all(made)}
    assert kinds == {"ConfigMap", "Deployment", "PersistentVolumeClaim", "Service"}
