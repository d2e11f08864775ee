"""Forms with one file in them (multipart/form-data), taken in as they come: the file goes to disk, not to memory."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from tunesmith.errors import OutputError
from tunesmith.runs.atomic import telling_output_errors
from tunesmith.service.context import Context
from tunesmith.service.errors import ApiError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_Schema = TypeVar("_Schema", bound=BaseModel)
_PIECE_BYTES = 2**20
_MOST_FIELDS = 16
_MOST_FIELD_BYTES = 16 * 2**10
_MOST_OTHER_BYTES = 2**18
_MOST_NAME_LETTERS = 255
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class Received:
    """A form that came whole: where the file's bytes are, how many, their SHA-256, its name, and the other fields."""

    path: Path
    bytes: int
    sha256: str
    filename: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Wanted:
    """What a form must hold: the field with the file, its most bytes, and what is told of a larger one."""

    field: str
    most_bytes: int
    too_large: Callable[[], ApiError]


@asynccontextmanager
async def received_form(request: Request, context: Context, wanted: Wanted) -> AsyncIterator[Received]:
    """Take in a form; its file is there during the block, and gone after it unless it was moved elsewhere.

    Raises:
        ApiError: 400: it is no form, breaks off or lacks the file; 413: the file is too large; 507: the disk is full.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > wanted.most_bytes + _MOST_OTHER_BYTES:
        raise wanted.too_large()
    path = context.scratch / f"form-{uuid.uuid4().hex}"
    form = _Form(wanted)
    try:
        await _take(request, path, form)
        if not form.has_file:
            raise ApiError(
                400, f"The form has no file `{wanted.field}`", code="missing_required_parameter", param=wanted.field
            )
        yield Received(path, form.bytes, form.digest.hexdigest(), form.filename, form.fields)
    except OutputError as error:
        # Where on the disk is nobody's business.
        status = 507 if error.code == "output.disk_full" else 503
        raise ApiError(status, f"The file cannot be kept: {error.message}", code=error.code, retry=False) from error
    finally:
        path.unlink(missing_ok=True)


def form_of(schema: type[_Schema], fields: Mapping[str, str]) -> _Schema:
    """Fields of a form as a schema; ``a[b]`` is the field ``b`` of an object ``a``.

    Raises:
        RequestValidationError: They do not fit it.
    """
    values: dict[str, Any] = {}
    for name, value in fields.items():
        outer, bracket, inner = name.partition("[")
        if not bracket:
            values[name] = value
            continue
        nested = values.setdefault(outer, {})
        if isinstance(nested, dict):
            nested[inner.removesuffix("]")] = value
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_context=False)) from error


def plain_name(filename: str) -> str:
    """A file's name as it is kept: no folders, no control characters, not too long. It is data and no path."""
    last = filename.replace("\\", "/").rpartition("/")[2]
    return _UNSAFE.sub("", last).strip()[:_MOST_NAME_LETTERS] or "file"


async def _take(request: Request, path: Path, form: _Form) -> None:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ApiError(400, "The body must be multipart/form-data", code="invalid_content_type")
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks())
        # What is still to be written when a disk is full fails once more when the file is closed.
        with telling_output_errors(path), await run_in_threadpool(_opened, path) as file:
            async for chunk in request.stream():
                parser.write(chunk)
                if form.waiting_bytes >= _PIECE_BYTES:
                    await run_in_threadpool(form.store, file)
            parser.finalize()
            await run_in_threadpool(form.store, file)
    except (FormParserError, UnicodeDecodeError) as error:
        raise ApiError(400, "The body is no form that can be read", code="invalid_form") from error
    except ClientDisconnect as error:
        raise _broken() from error
    if not form.is_whole:
        raise _broken()


def _broken() -> ApiError:
    return ApiError(400, "The body broke off before its end", code="incomplete_body")


def _opened(path: Path) -> BinaryIO:
    return path.open("xb")


class _Form:
    """What the parser calls while bytes come."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.fields: dict[str, str] = {}
        self.filename = ""
        self.has_file = False
        self.is_whole = False
        self.bytes = 0
        self.digest = hashlib.sha256()
        self.waiting_bytes = 0
        self._pieces: list[bytes] = []
        self._header: list[bytes] = [b"", b""]
        self._disposition = b""
        self._name = ""
        self._is_file = False
        self._value = b""
        self._other_bytes = 0

    def callbacks(self) -> MultipartCallbacks:
        """By the parser's names."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._whole,
        }

    def store(self, file: BinaryIO) -> None:
        """Write what has come; in a thread."""
        pieces, self._pieces, self.waiting_bytes = self._pieces, [], 0
        for piece in pieces:
            self.digest.update(piece)
            file.write(piece)
        file.flush()

    def _begin(self) -> None:
        self._disposition, self._header, self._value = b"", [b"", b""], b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def _header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header = [b"", b""]

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        self._name = options.get(b"name", b"").decode()
        self._is_file = self._name == self.wanted.field
        if self._is_file:
            if self.has_file:
                raise ApiError(400, "The form has two files", code="invalid_form", param=self._name)
            self.has_file = True
            self.filename = plain_name(options.get(b"filename", b"").decode(errors="replace"))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.bytes += end - start
            if self.bytes > self.wanted.most_bytes:
                raise self.wanted.too_large()
            self._pieces.append(data[start:end])
            self.waiting_bytes += end - start
            return
        self._value += data[start:end]
        if len(self._value) > _MOST_FIELD_BYTES:
            raise ApiError(400, "A field of the form is too long", code="invalid_form", param=self._name)

    def _end(self) -> None:
        if self._is_file:
            return
        if self._name in self.fields or len(self.fields) >= _MOST_FIELDS:
            raise ApiError(400, "The form has too many fields", code="invalid_form", param=self._name)
        self.fields[self._name] = self._value.decode()

    def _whole(self) -> None:
        self.is_whole = True
