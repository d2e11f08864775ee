"""A version as data. Records come from other machines too, so each value is checked before it is used as a path.

Fields may be added without a new format; a field that changes its meaning raises FORMAT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tunesmith.errors import ModelError, Problem
from tunesmith.registry.names import Address

FORMAT = 1
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ +@=-]{0,199}", re.ASCII)
_MOST_PARTS = 8


def check_path(path: str) -> str:
    """A relative path below a version; ValueError for anything that could lead elsewhere."""
    parts = path.split("/")
    if len(parts) > _MOST_PARTS or not all(_PART.fullmatch(part) for part in parts):
        raise ValueError(f"not a usable path within a version: {path!r}")
    return path


FilePath = Annotated[str, AfterValidator(check_path)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Part(BaseModel):
    """Base of all parts: unchangeable, and silent about what later versions add."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Blob(Part):
    """The bytes of one file: SHA-256 and size."""

    sha256: Hash
    size_bytes: int = Field(ge=0)


Files = dict[FilePath, Blob]
Kind = TypeVar("Kind", bound=Part)


class Base(Part):
    """The model below. ``copied`` says that its files are in the version; otherwise it is had by its name.

    ``weights`` are hashes of its safetensors, by which another model under the same name is found out.
    """

    name: str
    source: str | None = None
    revision: str | None = None
    licence: str | None = None
    licence_url: str | None = None
    parameters: int | None = None
    hub_id: str | None = None
    copied: bool = False
    weights: dict[str, Hash] = Field(default_factory=dict)


class DataFile(Part):
    """A file of the data, by its name without folders, and its hash."""

    name: str
    sha256: str


class DataSide(Part):
    """The training or the held-out rows."""

    files: tuple[DataFile, ...] = ()
    fingerprint: str | None = None
    rows: int | None = None


class Value(Part):
    """A measure with its 95 % interval."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True


class Origin(Part):
    """What a version was made from: a run by name and identity, a folder, or another registry."""

    kind: Literal["run", "folder", "pulled"]
    name: str
    identity: str | None = None
    created: str | None = None


class Record(Part):
    """One version. ``files`` lie below ``adapter/`` or ``model/``, ``base/``, and beside them.

    ``step`` is the optimizer step whose weights these are. ``metrics`` are by system, then by measure.
    """

    format: int = FORMAT
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$")]
    version: int = Field(ge=1)
    created: str
    tunesmith: str
    description: str = ""
    kind: Literal["adapter", "model"]
    origin: Origin
    base: Base | None = None
    parent: str | None = None
    licences: tuple[str, ...] = ()
    task: str | None = None
    objective: str | None = None
    technique: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    step: int | None = None
    train: DataSide = Field(default_factory=DataSide)
    held_out: DataSide = Field(default_factory=DataSide)
    metrics: dict[str, dict[str, Value]] = Field(default_factory=dict)
    primary_metric: str | None = None
    verdict: str | None = None
    pipeline: str | None = None
    language: str | None = None
    libraries: dict[str, str] = Field(default_factory=dict)
    files: Files

    @property
    def address(self) -> str:
        """``name:3``."""
        return str(Address(self.name, self.version))

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(blob.size_bytes for blob in self.files.values())


class Checkpoint(Part):
    """A checkpoint of a version, made usable, with all that it needs: it may come before the version is whole."""

    format: int = FORMAT
    step: int = Field(ge=0)
    created: str
    base: Base | None = None
    files: Files


class Claim(Part):
    """Who has taken a version's number. With ``run_folder`` the version is that run's, and may still be training."""

    format: int = FORMAT
    since: str
    run: str | None = None
    run_folder: str | None = None
    description: str = ""
    language: str | None = None
    with_base: bool = False


def to_bytes(part: Part) -> bytes:
    """A part as readable JSON."""
    return orjson.dumps(part.model_dump(mode="json", exclude_none=True), option=orjson.OPT_INDENT_2) + b"\n"


def parse(kind: type[Kind], content: bytes, place: str) -> Kind:
    """Read what :func:`to_bytes` wrote, here or elsewhere.

    Raises:
        ModelError: ``registry.format``: a later Tunesmith wrote it; ``registry.record``: it is not such a part.
    """
    try:
        data = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ModelError("a record cannot be read", code="registry.record", place=place, value=str(error)) from error
    if isinstance(data, Mapping) and isinstance(data.get("format"), int) and data["format"] > FORMAT:
        raise ModelError(
            "a later Tunesmith wrote this record",
            code="registry.format",
            place=place,
            value=f"format {data['format']}, known up to {FORMAT}",
            hint="upgrade Tunesmith",
        )
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems = [
            Problem("registry.record", wrong["msg"], ".".join(map(str, wrong["loc"])), repr(wrong["input"])[:80])
            for wrong in error.errors(include_url=False)
        ]
        raise ModelError("a record has not the form of one", place=place, problems=problems) from error
