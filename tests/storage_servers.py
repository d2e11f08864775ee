"""Real servers of object storage on this machine: S3 by moto, Azure blob by Azurite.

with serve_s3(tmp_path, monkeypatch) as url:    # s3://bucket, with the environment that reaches it
with serve_az(tmp_path, monkeypatch) as url:    # az://container; skips where Azurite is not installed
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

# The account that every Azurite has; Azurite's documentation tells it to everybody.
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_PATIENCE_SECONDS = 30.0


@contextmanager
def serve_s3(_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server in this process."""
    pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        # Every server of this process has the same buckets.
        bucket = f"tunesmith-{uuid.uuid4().hex[:12]}"
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
        yield f"s3://{bucket}"
    finally:
        server.stop()


@contextmanager
def serve_az(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An Azurite in a process of its own."""
    pytest.importorskip("adlfs")
    program = os.environ.get("AZURITE_BLOB") or shutil.which("azurite-blob")
    if program is None:
        pytest.skip("no Azurite: npm install -g azurite, or name the program azurite-blob in AZURITE_BLOB")
    port = free_port()
    command = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder / "azurite")]
    with running([*command, "--silent", "--skipApiVersionCheck", "--disableTelemetry"], port):
        endpoint = f"BlobEndpoint=http://127.0.0.1:{port}/{_ACCOUNT};"
        text = f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_KEY};{endpoint}"
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        import adlfs

        adlfs.AzureBlobFileSystem(connection_string=text, skip_instance_cache=True).mkdir("tunesmith-test")
        yield "az://tunesmith-test"


@contextmanager
def running(command: list[str], port: int, **environment: str) -> Iterator[None]:
    """A server's process, from the moment at which it listens."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment}
    )
    try:
        end = time.monotonic() + _PATIENCE_SECONDS
        while not _listens(port):
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
            assert time.monotonic() < end, f"{command[0]} does not listen"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A port that nothing listens on."""
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _listens(port: int) -> bool:
    with closing(socket.socket()) as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
