"""Kubeflow's trainer hears how far a run is, over TLS and with the token of the hour; a training never hears of it."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes_schemas import FILES, SCHEMAS, require_schemas

from tunesmith.pipeline import kubeflow
from tunesmith.pipeline.kubeflow import CERTIFICATE, TOKEN, URL, telling_trainer
from tunesmith.runs.events import open_events

PATIENCE_SECONDS = 20.0


class Trainer:
    """The controller's side: what was told, by whom."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.tokens: list[str] = []
        self.status = 200
        self.url = ""

    def wait(self, found: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE_SECONDS
        while not any(found(one) for one in self.told):
            assert time.monotonic() < end, self.told
            time.sleep(0.02)
        return next(one for one in self.told if found(one))


@contextmanager
def trainer_at(folder: Path) -> Iterator[tuple[Trainer, dict[str, str]]]:
    """A server with a certificate of its own, and the variables that lead to it."""
    _write_certificate(folder)
    trainer = Trainer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            trainer.tokens.append(self.headers["Authorization"])
            trainer.told.append(body["trainerStatus"])
            assert body.keys() == {"trainerStatus"}
            self.send_response(trainer.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.crt", folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    (folder / "token").write_text("first\n")
    trainer.url = f"https://127.0.0.1:{server.server_port}/apis/trainer/status"
    try:
        yield trainer, {URL: trainer.url, CERTIFICATE: str(folder / "ca.crt"), TOKEN: str(folder / "token")}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _write_certificate(folder: Path) -> None:
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "trainer")])
    moment = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(moment - timedelta(hours=1))
    builder = builder.not_valid_after(moment + timedelta(hours=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    certificate = builder.sign(key, hashes.SHA256())
    (folder / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeflow, "_PERIOD_SECONDS", 0.05)
    monkeypatch.setattr(kubeflow, "_LOOK_SECONDS", 0.02)


def _step(number: int, **more: Any) -> dict[str, Any]:
    return {"loss": 2.5, "learning_rate": 1e-4, "total_steps": 40, "eta_seconds": 12.4, **more, "number": number}


@pytest.mark.usefixtures("hurried")
def test_progress_metrics_and_the_end_are_told(tmp_path: Path) -> None:
    events = open_events(tmp_path / "events.jsonl")
    with trainer_at(tmp_path) as (trainer, variables):
        with telling_trainer(tmp_path / "events.jsonl", variables):
            events.emit("step", 10, **_step(10))
            told = trainer.wait(lambda one: one["progressPercentage"] == 25)
            assert told["estimatedRemainingSeconds"] == 12
            assert {"name": "loss", "value": "2.5"} in told["metrics"]
            # The token is another one after a while.
            (tmp_path / "token").write_text("second")
            events.emit("evaluation", 10, loss=1.25)
            trainer.wait(lambda one: {"name": "validation_loss", "value": "1.25"} in one["metrics"])
            events.emit("step", 40, **_step(40, loss=float("nan")))
            told = trainer.wait(lambda one: one["progressPercentage"] == 99)
            # The last loss that was one.
            assert {"name": "loss", "value": "2.5"} in told["metrics"]
            events.emit("status", state="finished")
        assert trainer.told[-1]["progressPercentage"] == 100
    assert (trainer.tokens[0], trainer.tokens[-1]) == ("Bearer first", "Bearer second")
    require_schemas("TrainJob")
    for one in trainer.told:
        _require_valid(one)


def _require_valid(told: dict[str, Any]) -> None:
    definition = yaml.load(
        (SCHEMAS / FILES["TrainJob"]).read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    (version,) = definition["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["trainerStatus"]
    assert told.keys() <= schema["properties"].keys()
    assert "lastUpdatedTime" in told
    jsonschema.Draft202012Validator(schema).validate(told)


@pytest.mark.usefixtures("hurried")
def test_a_trainer_that_refuses_is_told_again_later(tmp_path: Path) -> None:
    events = open_events(tmp_path / "events.jsonl")
    with trainer_at(tmp_path) as (trainer, variables):
        trainer.status = 500
        with telling_trainer(tmp_path / "events.jsonl", variables):
            events.emit("step", 10, **_step(10))
            trainer.wait(lambda one: one["progressPercentage"] == 25)
            trainer.status = 200
            events.emit("step", 20, **_step(20))
            trainer.wait(lambda one: one["progressPercentage"] == 50)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("broken", ["address", "certificate", "token", "another certificate"])
def test_nothing_that_is_broken_there_disturbs_a_training(tmp_path: Path, broken: str) -> None:
    events = open_events(tmp_path / "events.jsonl")
    with trainer_at(tmp_path) as (trainer, variables):
        if broken == "address":
            variables[URL] = "https://127.0.0.1:9/"
        elif broken == "another certificate":
            (tmp_path / "other").mkdir()
            _write_certificate(tmp_path / "other")
            variables[CERTIFICATE] = str(tmp_path / "other" / "ca.crt")
        else:
            Path(variables[{"certificate": CERTIFICATE, "token": TOKEN}[broken]]).unlink()
        before = threading.active_count()
        with telling_trainer(tmp_path / "events.jsonl", variables):
            events.emit("step", 10, **_step(10))
            assert threading.active_count() > before
        assert trainer.told == []
    assert "kubeflow" not in {thread.name for thread in threading.enumerate()}


def test_elsewhere_nothing_is_told(tmp_path: Path) -> None:
    before = threading.active_count()
    with telling_trainer(tmp_path / "events.jsonl", {URL: "https://127.0.0.1:9/"}):
        assert threading.active_count() == before


def test_it_is_told_no_oftener_than_the_trainer_wants() -> None:
    assert kubeflow._PERIOD_SECONDS >= 5.0
