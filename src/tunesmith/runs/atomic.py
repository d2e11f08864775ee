"""Writes that either happen whole or not at all.

A file is written beside its place, flushed to disk and renamed; a folder is filled under a scratch name, every file
in it flushed, and renamed. A crash leaves scratch names behind, never a half-written file under the real name.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from tunesmith.errors import OutputError

SCRATCH_MARK = ".scratch-"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


def output_error(error: OSError, path: Path) -> OutputError:
    """Tell an operating system's write error in words: full disk, read-only folder, or whatever it was."""
    if error.errno in _FULL:
        return OutputError(
            "the disk is full, nothing was overwritten",
            code="output.disk_full",
            place=str(path),
            hint="free some space, or choose another place with --output; a stopped run continues with `runs resume`",
        )
    if error.errno in _READ_ONLY:
        return OutputError(
            "cannot write here",
            code="output.read_only",
            place=str(path),
            value=error.strerror,
            hint="choose a folder that you may write to with --output",
        )
    return OutputError("writing failed", code="output.failed", place=str(path), value=error.strerror or str(error))


@contextmanager
def telling_output_errors(path: Path) -> Iterator[None]:
    """Turn every OSError of the block into an OutputError that names ``path``."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise output_error(error, path) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically and durably.

    Raises:
        OutputError: The disk is full or the folder cannot be written; the old file is untouched.
    """
    scratch = path.with_name(f".{path.name}{SCRATCH_MARK}{uuid.uuid4().hex[:8]}")
    with telling_output_errors(path):
        try:
            with scratch.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; errors as in :func:`write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Write readable JSON atomically; errors as in :func:`write_bytes`."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    write_bytes(path, orjson.dumps(data, option=options) + b"\n")


def read_json(path: Path) -> Any:
    """Read a JSON file written by :func:`write_json`."""
    return orjson.loads(path.read_bytes())


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder under a scratch name; on success it appears whole as ``path``, on failure not at all.

    Raises:
        OutputError: As in :func:`write_bytes`, and when ``path`` exists already.
    """
    if path.exists():
        raise OutputError("the folder exists already", code="output.exists", place=str(path))
    scratch = path.with_name(f".{path.name}{SCRATCH_MARK}{uuid.uuid4().hex[:8]}")
    with telling_output_errors(path):
        scratch.mkdir(parents=True)
        try:
            yield scratch
            sync_tree(scratch)
            scratch.rename(path)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        sync_folder(path.parent)


def remove_scratch(folder: Path) -> None:
    """Remove what a killed process left behind under scratch names directly in ``folder``."""
    for leftover in folder.glob(f".*{SCRATCH_MARK}*"):
        remove_path(leftover)


def remove_path(path: Path) -> None:
    """Remove a file, or a folder with what is in it, as far as that is possible."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below ``folder`` to disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
        sync_folder(path)


def sync_folder(folder: Path) -> None:
    """Flush a folder's own entries, where the system lets one open folders."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
