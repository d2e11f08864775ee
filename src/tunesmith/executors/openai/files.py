"""Files of a service with OpenAI's contract: rows go there, whole or in parts, and results come from there."""

from __future__ import annotations

import base64
import binascii
import codecs
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError, NetworkError
from tunesmith.executors.openai.rows import Data
from tunesmith.runs.atomic import telling_output_errors

# The service takes so much at once, and no larger part of a file.
MOST_BYTES_AT_ONCE = 64 * 2**20
FEWEST_ROWS = 10
_POLL_SECONDS = 1.0
_PATIENCE_SECONDS = 30 * 60.0
_MOST_NAMED = 1000


@dataclass(frozen=True)
class Written:
    """The two files of a job on this machine, and how many rows each has; ``validation`` is None without rows."""

    training: Path
    validation: Path | None
    training_rows: int
    validation_rows: int


def mark_of(key: str) -> str:
    """A submission's key in a form that every field of a service takes."""
    return hashlib.sha256(key.encode()).hexdigest()[:40]


def file_name(key: str, side: str) -> str:
    """What a file of a submission is called at the service, so that it is found again."""
    return f"tunesmith-{mark_of(key)}-{side}.jsonl"


def write_rows(data: Data, folder: Path, key: str, *, with_mark: bool) -> Written:
    """Write both sides of the split.

    Args:
        data: The rows.
        folder: Where.
        key: The submission's key.
        with_mark: Whether the files begin with UTF-8's byte order mark, which Azure asks for.

    Raises:
        DataError: A row has nothing to learn.
        OutputError: The disk is full.
    """
    training, validation = folder / file_name(key, "training"), folder / file_name(key, "validation")
    rows = _write(training, data.training_lines(), with_mark=with_mark)
    held_out = _write(validation, data.validation_lines(), with_mark=with_mark)
    return Written(training, validation if held_out else None, rows, held_out)


def _write(path: Path, lines: Iterable[bytes], *, with_mark: bool) -> int:
    count = 0
    with telling_output_errors(path), path.open("wb") as file:
        if with_mark:
            file.write(codecs.BOM_UTF8)
        for line in lines:
            file.write(line)
            count += 1
    return count


def known_files(client: Any, key: str) -> dict[str, Any]:
    """The files of a submission that are at the service already, by name."""
    names = {file_name(key, side) for side in ("training", "validation")}
    return {file.filename: file for file in client.files.list(purpose="fine-tune") if file.filename in names}


def upload(client: Any, path: Path, known: Mapping[str, Any]) -> str:
    """Bring a file to the service, unless it is there, and wait until it can be used; its id.

    Raises:
        DataError: ``openai.file``: the service cannot read it.
        NetworkError: ``openai.file_waits``: it was not read in half an hour.
    """
    there = known.get(path.name)
    if there is not None and there.bytes == path.stat().st_size and there.status != "error":
        found = there
    elif path.stat().st_size <= MOST_BYTES_AT_ONCE:
        found = client.files.create(file=(path.name, path.read_bytes()), purpose="fine-tune")
    else:
        uploaded = client.uploads.upload_file_chunked(
            file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=MOST_BYTES_AT_ONCE
        )
        found = uploaded.file
    try:
        read = client.files.wait_for_processing(
            found.id, poll_interval=_POLL_SECONDS, max_wait_seconds=_PATIENCE_SECONDS
        )
    except RuntimeError as error:
        raise NetworkError(
            "the service has not read the file yet",
            code="openai.file_waits",
            place=found.id,
            hint="submit it again with the same --key",
        ) from error
    if read.status != "processed":
        raise DataError(
            "the service cannot use the file",
            code="openai.file",
            place=f"{path.name} ({read.id})",
            value=getattr(read, "status_details", None) or read.status,
        )
    return str(read.id)


def result_table(content: bytes) -> bytes:
    """A result file as the table that it is; some services send it in base64."""
    if b"," in content.split(b"\n", 1)[0]:
        return content
    try:
        decoded = base64.b64decode(content, validate=False)
    except (binascii.Error, ValueError):
        return content
    return decoded if b"," in decoded.split(b"\n", 1)[0] else content


def result_names(files: Iterable[Any]) -> dict[str, str]:
    """The ids of result files by the names that they get here; names of the service are not trusted with a path."""
    found: dict[str, str] = {}
    for number, file in enumerate(files, start=1):
        stem = "results" if number == 1 else f"results-{number}"
        found[f"{stem}{'.csv' if str(file.filename).endswith('.csv') else '.txt'}"] = file.id
        if number == _MOST_NAMED:
            break
    return found
