"""Deployments: models that answer somewhere until they are taken away, with a record of each beside the runs.

    .deployments/NAME.json     what was asked for, where it is, and which versions it uses

A version of the registry that is deployed has a reference of the deployment, and cannot be removed as long as that is
there.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunesmith.catalog.resolve import resolve_model
from tunesmith.errors import Problem, RunError, TunesmithError, UsageError
from tunesmith.executors.deployers import make_deployer
from tunesmith.executors.deploying import Deployer, Endpoint, EndpointStatus, RendersEndpoint
from tunesmith.jobs.deploying import named_models
from tunesmith.registry.names import looks_like_address, parse_address
from tunesmith.registry.place import default_registry, open_registry
from tunesmith.registry.references import add_reference, drop_reference
from tunesmith.runs.atomic import read_json, telling_output_errors, write_json, write_text

FOLDER = ".deployments"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Asked:
    """What is to be deployed.

    Attributes:
        models: Each ``MODEL`` or ``NAME=MODEL``, as `tunesmith serve` takes them.
        name: The deployment's name; chosen where it is None.
        on: The platform; see :data:`tunesmith.executors.deployers.NAMES`.
        settings: The platform's own settings.
        kind: Whether requests are answered one by one, or in files.
        replicas: How many servers answer.
        key: Deployments of one key are one; None: the name says which one is meant.
    """

    models: tuple[str, ...]
    name: str | None = None
    on: str = "local"
    settings: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["real-time", "batch"] = "real-time"
    replicas: int = 1
    key: str | None = None


@dataclass(frozen=True)
class Deployment:
    """A deployment that was asked for: its record's file, and what that says."""

    path: Path
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its name."""
        return self.path.stem

    @property
    def deployer(self) -> Deployer:
        """Whoever made it."""
        return make_deployer(self.record["on"], self.path.parent.parent, self.record["settings"])


@dataclass(frozen=True)
class DeploymentView:
    """A deployment at one moment."""

    deployment: Deployment
    status: EndpointStatus

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        record = self.deployment.record
        return {
            "deployment": self.deployment.name,
            "on": record["on"],
            "kind": record["kind"],
            "state": self.status.state,
            "words": self.status.words,
            "address": self.status.address,
            "reason": self.status.reason,
            "models": record["models"],
            "versions": record["versions"],
            "created": record["created"],
            "handle": record["handle"],
        }


def create(asked: Asked, runs_folder: Path) -> Deployment:
    """Deploy models, or find the deployment of the same name that was asked for in the same words.

    Raises:
        UsageError: A name cannot be used, or the platform cannot do this.
        ModelError: There is no such model, or its version was removed meanwhile.
        RunError: ``deployment.exists``: another deployment has the name.
        TunesmithError: The platform refuses it or does not answer; one that nobody heard of is removed again.
    """
    endpoint = _endpoint(asked, runs_folder)
    deployer = make_deployer(asked.on, runs_folder, asked.settings)
    path = _folder(runs_folder) / f"{endpoint.name}.json"
    if path.exists():
        known = Deployment(path, read_json(path))
        if known.record["key"] != endpoint.key:
            raise RunError(
                "another deployment has this name",
                code="deployment.exists",
                value=endpoint.name,
                hint=f"choose another --name, or `tunesmith deployments delete {endpoint.name}`",
            )
        return _send(known, deployer, endpoint)
    versions = [model for model in endpoint.models.values() if _is_version(model)]
    record = {
        "format": 1,
        "key": endpoint.key,
        "on": asked.on,
        "settings": dict(asked.settings),
        "kind": endpoint.kind,
        "replicas": endpoint.replicas,
        "models": dict(endpoint.models),
        "versions": versions,
        "registry": _registry(),
        "created": time.time(),
        "handle": None,
    }
    with telling_output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    made = Deployment(path, record)
    try:
        for address in versions:
            name, number = _version(address)
            add_reference(open_registry(_registry()), name, number, "deployment", _who(made))
        return _send(made, deployer, endpoint)
    except TunesmithError as error:
        if not error.retryable:
            _forget(made)
        raise


def render(asked: Asked, runs_folder: Path, folder: Path) -> list[Path]:
    """Write what would be made into a folder, and make nothing; the files.

    Raises:
        UsageError: ``usage.render``: the platform is not told by files.
        OutputError: The folder cannot be written.
    """
    deployer = make_deployer(asked.on, runs_folder, asked.settings)
    if not isinstance(deployer, RendersEndpoint):
        raise UsageError(
            "this platform is not told by files", code="usage.render", value=asked.on, hint="leave --render out"
        )
    written = []
    for name, text in deployer.render_endpoint(_endpoint(asked, runs_folder)).items():
        place = folder / name
        with telling_output_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, text)
        written.append(place)
    return written


def find_deployment(runs_folder: Path, name: str) -> Deployment:
    """A deployment by its name.

    Raises:
        RunError: ``deployment.none``; the hint says which there are.
    """
    path = _folder(runs_folder) / f"{name}.json"
    if not _NAME.fullmatch(name) or not path.is_file():
        there = ", ".join(one.name for one in list_deployments(runs_folder)) or "none"
        raise RunError("no such deployment", code="deployment.none", value=name, hint=f"there are: {there}")
    return Deployment(path, read_json(path))


def list_deployments(runs_folder: Path) -> list[Deployment]:
    """All deployments of a folder of runs, oldest first."""
    found = [Deployment(path, read_json(path)) for path in _folder(runs_folder).glob("*.json")]
    return sorted(found, key=lambda one: float(one.record["created"]))


def look(deployment: Deployment) -> DeploymentView:
    """Ask how a deployment is.

    Raises:
        NetworkError: The platform does not answer.
    """
    handle = deployment.record["handle"]
    if handle is None:
        return DeploymentView(deployment, EndpointStatus("lost", reason="it was not made to its end; create it again"))
    return DeploymentView(deployment, deployment.deployer.status(handle))


def wait(deployment: Deployment, timeout_seconds: float) -> Iterator[DeploymentView]:
    """Look again and again until the deployment answers; the last one says that it does.

    Raises:
        RunError: ``deployment.failed``: it will not; ``deployment.not_ready``: not in time.
    """
    end = time.monotonic() + timeout_seconds
    while True:
        view = look(deployment)
        yield view
        if view.status.state == "ready":
            return
        over = view.status.state in ("failed", "stopped", "lost")
        if over or time.monotonic() > end:
            raise RunError(
                "the deployment does not answer",
                code="deployment.failed" if over else "deployment.not_ready",
                place=deployment.name,
                value=view.status.reason or view.status.words,
                hint=None if over else f"it goes on: tunesmith deployments show {deployment.name}",
            )
        time.sleep(_POLL_SECONDS)


def delete(deployment: Deployment) -> None:
    """Take a deployment away, and let go of the versions that it used.

    Raises:
        TunesmithError: The platform refuses it or does not answer; then the record and references stay.
    """
    handle = deployment.record["handle"]
    if handle is not None:
        deployment.deployer.delete(handle)
    _forget(deployment)


def _send(deployment: Deployment, deployer: Deployer, endpoint: Endpoint) -> Deployment:
    record = {**deployment.record, "handle": dict(deployer.deploy(endpoint))}
    write_json(deployment.path, record)
    return Deployment(deployment.path, record)


def _forget(deployment: Deployment) -> None:
    for address in deployment.record["versions"]:
        name, number = _version(address)
        drop_reference(open_registry(deployment.record["registry"]), name, number, "deployment", _who(deployment))
    with telling_output_errors(deployment.path):
        deployment.path.unlink(missing_ok=True)


def _endpoint(asked: Asked, runs_folder: Path) -> Endpoint:
    named = named_models(asked.models)
    models = {name: _place(model, runs_folder, asked.on) for name, model in named}
    problems = [
        Problem("usage.served_names", "a name of a deployed model has neither = nor spaces", place=name)
        for name in models
        if "=" in name or name.split() != [name]
    ]
    if problems:
        raise UsageError("models cannot be deployed under these names", problems=problems, hint="write NAME=MODEL")
    name = asked.name or _stem(named[0][0])
    if not _NAME.fullmatch(name):
        raise UsageError(
            "not a usable name for a deployment",
            code="usage.deployment_name",
            value=repr(name),
            hint="lowercase letters, digits and '-', at most 40, starting with a letter",
        )
    words = [name, asked.on, asked.kind, asked.replicas, sorted(models.items()), sorted(asked.settings.items())]
    key = asked.key or hashlib.sha256(repr(words).encode()).hexdigest()[:40]
    environment = {"TUNESMITH_REGISTRY": _registry()} if any(map(_is_version, models.values())) else {}
    return Endpoint(name, key, models, asked.kind, asked.replicas, environment)


def _place(model: str, runs_folder: Path, on: str) -> str:
    """What a model's name means now, as it is found from any folder: a stage must not change under a server.

    Whatever means nothing here may be a place that another platform can read.
    """
    path = Path(model).expanduser()
    if path.exists():
        return str(path.resolve())
    if on != "local" and not looks_like_address(model) and not (runs_folder / model / "recipe.yaml").is_file():
        return model
    reference = resolve_model(model, runs_folder)
    return str(reference.path) if reference.kind == "run" else reference.name


def _stem(name: str) -> str:
    stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return (stem if stem[:1].isalpha() else f"model-{stem}")[:40].rstrip("-")


def _is_version(model: str) -> bool:
    return looks_like_address(model) and not Path(model).exists()


def _version(address: str) -> tuple[str, int]:
    found = parse_address(address)
    assert found.version is not None
    return found.name, found.version


def _registry() -> str:
    """The registry as it is found from any folder."""
    place = default_registry()
    return place if "://" in place else str(Path(place).expanduser().resolve())


def _who(deployment: Deployment) -> str:
    return f"tunesmith deployment {deployment.name} in {deployment.path.parent.parent.resolve()}"


def _folder(runs_folder: Path) -> Path:
    return runs_folder.absolute() / FOLDER
