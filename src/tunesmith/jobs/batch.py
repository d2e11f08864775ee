"""Answer a file of requests in OpenAI's batch format, and go on where an earlier command was ended.

Answers go to the output file, one line each, as they come or in the order of the requests; what the server refused
goes to a second file beside it. Both grow line by line, so whatever was answered before a crash stays answered.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from tunesmith.errors import DataError, OutputError, Problem, TunesmithError, UsageError
from tunesmith.runs.atomic import read_json, telling_output_errors, write_json
from tunesmith.runs.lease import lock
from tunesmith.wire.batch import BatchError, BatchRequest, BatchResponse, BatchResult
from tunesmith.wire.client import InferenceClient

_MOST_PROBLEMS = 50
# The server has too much to do.
_COME_AGAIN = (429,)
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class BatchFiles:
    """Where a batch is read from and written to."""

    source: Path
    answers: Path

    @property
    def refusals(self) -> Path:
        """What the server refused."""
        return self.answers.with_name(f"{self.answers.stem}.errors.jsonl")

    @property
    def state(self) -> Path:
        """Which source the other files are of: the same command goes on, another one is refused."""
        return self.answers.with_name(f".{self.answers.name}.batch.json")


@dataclass(frozen=True)
class BatchCounts:
    """How many requests there are, were done before, were answered now, and were refused in all."""

    requests: int
    before: int
    answered: int
    refused: int


def check_batch(source: Path, names: frozenset[str], model: str | None) -> int:
    """Read the whole file once and refuse all that is wrong with it; returns how many requests it has.

    Args:
        source: The file.
        names: The served models.
        model: What every request is answered by, whatever it names; None where each names its own.

    Raises:
        DataError: Lines that are no requests, ids that come twice, models that are not served.
    """
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for number, line in _lines(source):
        try:
            request = BatchRequest.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            problems.append(
                Problem("batch.line", f"{field}: {first['msg']}" if field else first["msg"], f"line {number}")
            )
            continue
        place = f"line {number}"
        if request.custom_id in seen:
            where = f"custom_id is that of line {seen[request.custom_id]} too"
            problems.append(Problem("batch.custom_id", where, place, request.custom_id))
        seen.setdefault(request.custom_id, number)
        if request.body.get("stream"):
            problems.append(Problem("batch.stream", "answers of a batch are not streamed", place))
        named = request.body.get("model")
        if model is None and not (isinstance(named, str) and named in names):
            served = f"served here: {', '.join(sorted(names))}"
            problems.append(Problem("batch.model", f"no such model; {served}", place, str(named)[:200]))
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        raise DataError(
            f"{len(problems)} of the batch's lines cannot be asked"
            + (f"; the first {_MOST_PROBLEMS}" if more > 0 else ""),
            problems=problems[:_MOST_PROBLEMS],
        )
    if not seen:
        raise DataError("the batch has no requests", code="batch.empty", place=str(source))
    return len(seen)


def run_batch(
    files: BatchFiles,
    client: InferenceClient,
    *,
    model: str | None,
    done: set[str],
    concurrency: int,
    ordered: bool,
    on_progress: Callable[[int, int], None],
    total: int,
    goes_on: Callable[[], bool] = lambda: True,
) -> BatchCounts:
    """Answer every request that is not answered yet.

    Args:
        files: See :class:`BatchFiles`; the source was checked.
        client: Of the server that answers.
        model: What every request is answered by; None where each names its own.
        done: What :func:`begin_batch` found to be done already.
        concurrency: How many are under way at once.
        ordered: Whether answers are written in the order of the requests.
        on_progress: Called with (requests done, requests in all).
        total: How many there are.
        goes_on: Asked before each request; once it is not so, no more are asked, and those under way are waited for.

    Raises:
        OutputError: The output cannot be written, or the disk is full.
        NetworkError: The server is gone.
    """
    before = len(done)
    with _asking(concurrency) as pool, _Writer(files) as writer:
        waiting: dict[Future[BatchResult], int] = {}
        late: dict[int, BatchResult] = {}
        next_number = 0
        for at, request in enumerate(_open_requests(files.source, done)):
            if not goes_on():
                break
            waiting[pool.submit(_ask, client, request, model)] = at
            while len(waiting) >= 2 * concurrency or len(late) >= 64 * concurrency:
                next_number = _collect(waiting, late, writer, next_number, ordered=ordered)
                on_progress(before + writer.written, total)
        while waiting:
            next_number = _collect(waiting, late, writer, next_number, ordered=ordered)
            on_progress(before + writer.written, total)
    return BatchCounts(total, before, writer.answered, count_refused(files))


def count_refused(files: BatchFiles) -> int:
    """How many requests the server has refused so far."""
    return sum(1 for _ in _lines(files.refusals)) if files.refusals.exists() else 0


@contextmanager
def _asking(concurrency: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that ask. What ends the block early waits for none of them; the end of the server ends them all."""
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="asking")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _collect(
    waiting: dict[Future[BatchResult], int],
    late: dict[int, BatchResult],
    writer: _Writer,
    next_number: int,
    *,
    ordered: bool,
) -> int:
    """Write what has come; the number of the request whose answer is to be written next."""
    finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in finished:
        late[waiting.pop(future)] = future.result()
    if not ordered:
        for number in sorted(late):
            writer.write(late.pop(number))
    while next_number in late:
        writer.write(late.pop(next_number))
        next_number += 1
    return next_number


class _Writer:
    """Appends results, each line handed to the operating system before it counts."""

    def __init__(self, files: BatchFiles) -> None:
        self._files = files
        self._open: dict[Path, int] = {}
        self.written = 0
        self.answered = 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def write(self, result: BatchResult) -> None:
        """Add one line to the file that it belongs to."""
        good = result.response is not None and result.response.status_code == 200
        path = self._files.answers if good else self._files.refusals
        with telling_output_errors(path):
            if path not in self._open:
                self._open[path] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            data = orjson.dumps(result.model_dump()) + b"\n"
            while data:
                data = data[os.write(self._open[path], data) :]
        self.written += 1
        self.answered += good


def _ask(client: InferenceClient, request: BatchRequest, model: str | None) -> BatchResult:
    body = {**request.body, "stream": False}
    if model is not None:
        body["model"] = model
    name = f"batch_req_{uuid.uuid4().hex}"
    try:
        status, answer = client.post(request.url, body)
        while status in _COME_AGAIN:
            time.sleep(_PAUSE_SECONDS)
            status, answer = client.post(request.url, body)
    except TunesmithError as error:
        if error.retryable:
            # Not this request's fault: it stays open, and the command ends.
            raise
        return BatchResult(
            id=name,
            custom_id=request.custom_id,
            response=None,
            error=BatchError(code=error.code, message=error.message),
        )
    response = BatchResponse(status_code=status, request_id=f"req_{uuid.uuid4().hex}", body=dict(answer))
    return BatchResult(id=name, custom_id=request.custom_id, response=response)


@contextmanager
def sole_writer(files: BatchFiles) -> Iterator[None]:
    """Keep other commands of this machine away from the output while the block lasts; it is made where it is missing.

    Raises:
        OutputError: Another command writes it, or it cannot be made.
    """
    with telling_output_errors(files.answers):
        files.answers.parent.mkdir(parents=True, exist_ok=True)
        file = files.answers.open("ab")
    with file:
        if not lock(file):
            raise OutputError(
                "another command writes this output",
                code="output.in_use",
                place=str(files.answers),
                hint="wait until it ends, or give another OUT",
            )
        yield


def begin_batch(files: BatchFiles, answered_by: Sequence[str]) -> set[str]:
    """The ids that are done; a last line that was torn by a crash is cut off.

    Args:
        files: See :class:`BatchFiles`; the source was checked.
        answered_by: The models as the user named them; others do not go on with the same output.

    Raises:
        OutputError: The output is there already and not of this batch, or cannot be read or written.
    """
    with files.source.open("rb") as source:
        sha256 = hashlib.file_digest(source, "sha256").hexdigest()
    there = [path for path in (files.answers, files.refusals) if path.exists() and path.stat().st_size > 0]
    known: Mapping[str, Any] = read_json(files.state) if files.state.exists() else {}
    if there and known.get("source_sha256") != sha256:
        raise OutputError(
            "the output exists already and is not of this batch",
            code="output.exists",
            place=str(there[0]),
            hint="give another OUT, or remove the file",
        )
    if there and known.get("answered_by") != list(answered_by):
        raise OutputError(
            "the output was begun with another --model",
            code="output.other_model",
            place=str(there[0]),
            value=", ".join(known.get("answered_by", [])),
            hint="name the same, give another OUT, or remove the file",
        )
    write_json(files.state, {"format": 1, "source_sha256": sha256, "answered_by": list(answered_by)})
    done: set[str] = set()
    for path in there:
        done |= _done(path)
    return done


def _done(path: Path) -> set[str]:
    ids: set[str] = set()
    good_bytes = 0
    with telling_output_errors(path), path.open("rb+") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                ids.add(BatchResult.model_validate_json(line).custom_id)
            except ValidationError as error:
                raise OutputError(
                    "a line of the output is no answer",
                    code="output.not_batch",
                    place=f"{path}:{number}",
                    hint="remove the line; its request is then asked again",
                ) from error
            good_bytes += len(line)
        file.truncate(good_bytes)
    return ids


def _open_requests(source: Path, done: set[str]) -> Iterator[BatchRequest]:
    for _, line in _lines(source):
        request = BatchRequest.model_validate_json(line)
        if request.custom_id not in done:
            yield request


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers; a byte order mark at the beginning is no part of them."""
    if not path.is_file():
        raise UsageError("there is no such file", code="usage.no_file", place=str(path))
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                yield number, text
