"""The end of a batch: its answers become files of the project, and what it used is written down, once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import orjson
from sqlalchemy import Row, select

from tunesmith.jobs.batch import BatchFiles
from tunesmith.runs.atomic import telling_output_errors
from tunesmith.service.batches.schema import usage_of
from tunesmith.service.batches.states import move, renew
from tunesmith.service.context import Context
from tunesmith.service.db.tables.files import FILES
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.service.ids import new_id
from tunesmith.service.shared.files import keep_file
from tunesmith.service.shared.metering import count_use, price
from tunesmith.service.shared.naming import Named
from tunesmith.wire.batch import BatchError, BatchResult

Outcome = Literal["completed", "failed", "expired", "cancelled"]
_OPEN = ("validating", "in_progress", "finalizing", "cancelling")
_PURPOSE = "batch_output"
_MILLION = 1_000_000


def fail(context: Context, row: Row[Any], code: str, message: str) -> None:
    """End a batch that cannot be worked for, without answers.

    Raises:
        LostError: Somebody else has it.
    """
    errors = [{"code": code, "message": message, "param": None, "line": None}]
    with context.database.write() as connection:
        move(context, connection, row, "failed", _OPEN, errors=errors)


def finish(
    context: Context, row: Row[Any], files: BatchFiles, outcome: Outcome, errors: list[dict[str, Any]] | None
) -> None:
    """Keep what was answered as files, and end the batch. A second time, after a crash, does nothing twice.

    Raises:
        LostError: Somebody else has it.
        OutputError, NetworkError: The storage cannot be written.
    """
    if outcome == "expired":
        _tell_unanswered(files)
    completed, failed = _count(files.answers), _count(files.refusals)
    names = _names(context, row, outcome)
    kept = {
        "output_file_id": _keep(context, row, files.answers, names["output_file_id"], "output"),
        "error_file_id": _keep(context, row, files.refusals, names["error_file_id"], "error"),
    }
    tokens = tokens_in(files)
    before = ("cancelling",) if outcome == "cancelled" else ("finalizing", "cancelling")
    values = {"completed": completed, "failed": failed, "usage": usage_of(*tokens), "errors": errors, **kept}
    base = select(TUNED_MODELS.c.base).where(TUNED_MODELS.c.id == row.model)
    with context.database.write() as connection:
        move(context, connection, row, outcome, before, **values)
        count_use(
            context,
            connection,
            row.project_id,
            row.model,
            {"input_tokens": tokens[0], "output_tokens": tokens[1], "requests": completed},
            key_id=row.key_id,
            price_of=connection.execute(base).scalar_one_or_none(),
        )


def tokens_in(files: BatchFiles) -> tuple[int, int]:
    """Tokens in and out of all answers so far."""
    read = written = 0
    for line in _lines(files.answers):
        usage = line["response"]["body"].get("usage") or {}
        read += int(usage.get("prompt_tokens") or 0)
        written += int(usage.get("completion_tokens") or 0)
    return read, written


def cost_of(context: Context, named: Named, read: int, written: int) -> float:
    """What that many tokens cost."""
    prices = (price(context, named.name, kind, named.base) for kind in ("input_tokens", "output_tokens"))
    return sum(one * count / _MILLION for one, count in zip(prices, (read, written), strict=True))


def _names(context: Context, row: Row[Any], outcome: Outcome) -> dict[str, str]:
    """Choose the names of the files before they are made, so that they are made once."""
    names = {
        "output_file_id": row.output_file_id or new_id("file-"),
        "error_file_id": row.error_file_id or new_id("file-"),
    }
    if outcome == "cancelled":
        renew(context, row, **names)
        return names
    with context.database.write() as connection:
        move(context, connection, row, "finalizing", ("in_progress", "finalizing", "cancelling"), **names)
    return names


def _keep(context: Context, row: Row[Any], path: Path, name: str, what: str) -> str | None:
    """A file of answers as one of the project; None where there are no lines."""
    if not path.exists() or path.stat().st_size == 0:
        return None
    with context.database.read() as connection:
        if connection.execute(select(FILES.c.id).where(FILES.c.id == name)).first() is not None:
            return name
    seconds = row.output_expires_seconds
    expires_at = None if seconds is None else context.now() + seconds
    filename = f"{row.id}_{what}.jsonl"
    keep_file(context, row.project_id, _PURPOSE, filename, path, expires_at=expires_at, file_id=name)
    renew(context, row)
    return name


def _tell_unanswered(files: BatchFiles) -> None:
    """Write a line for each request that was not answered in time."""
    done = {line["custom_id"] for path in (files.answers, files.refusals) for line in _lines(path)}
    with telling_output_errors(files.refusals), files.refusals.open("ab") as output:
        for line in _lines(files.source):
            if line["custom_id"] in done:
                continue
            error = BatchError(
                code="batch_expired", message="This request could not be executed before the batch expired."
            )
            result = BatchResult(id=new_id("batch_req_"), custom_id=line["custom_id"], response=None, error=error)
            output.write(orjson.dumps(result.model_dump()) + b"\n")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file that is there; what a crash tore was cut off before."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for at, line in enumerate(file):
            text = line.removeprefix(b"\xef\xbb\xbf") if at == 0 else line
            if text.strip():
                yield orjson.loads(text)


def _count(path: Path) -> int:
    return sum(1 for _ in _lines(path))
