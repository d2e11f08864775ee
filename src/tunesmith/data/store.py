"""Token rows on disk: flat arrays that are mapped, not read, so that a data set may be larger than memory.

A folder with the ids and marks of all rows behind one another, where each row starts, and a manifest with the size and
hash of every file. It appears whole or not at all, and what is damaged is refused.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.render import Note
from tunesmith.data.types import Flags, TokenIds, TokenRow
from tunesmith.errors import DataError, UsageError
from tunesmith.formats.examples import Place
from tunesmith.runs.atomic import new_folder, read_json, write_json

STORE_VERSION = 3
_MANIFEST = "manifest.json"
# File and type of each array; `row_starts` has one entry more than there are rows.
_ARRAYS = {
    "token_ids": "<i4",
    "trained": "|b1",
    "row_starts": "<i8",
    "trained_counts": "<i8",
    "lines": "<i8",
    "files": "<i4",
    "notes": "<i4",
    "kinds": "|i1",
}
# Only in stores whose labels stand at their own tokens.
_LABELS = {"label_ids": "<i4"}
# Written as rows come, since they are large.
_STREAMS = ("token_ids", "trained")


@dataclass(frozen=True)
class TokenStore:
    """Rows of a data set as tokens; :attr:`items` is its :class:`tunesmith.data.types.TokenSet`.

    Attributes:
        folder: Where it lies.
        file_names: Names of the files that rows come from.
        facts: What was done to the rows: examples read, rows left out and their first places, the policy, and
            ``rows_per_item`` where rows belong together.
        arrays: The mapped arrays.
    """

    folder: Path
    file_names: tuple[str, ...]
    facts: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    @property
    def items(self) -> Items:
        """The rows as the engine draws them."""
        return Items(self, int(self.facts.get("rows_per_item", 1)))

    @property
    def lengths_B(self) -> TokenIds:
        """Tokens of each row."""
        return np.diff(self.arrays["row_starts"])

    @property
    def trained_counts_B(self) -> TokenIds:
        """Trained tokens of each row."""
        return np.asarray(self.arrays["trained_counts"])

    @property
    def notes_B(self) -> NDArray[np.int32]:
        """The :class:`tunesmith.data.render.Note` of each row."""
        return np.asarray(self.arrays["notes"])

    def __len__(self) -> int:
        return len(self.arrays["lines"])

    def __getitem__(self, index: int) -> TokenRow:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start, end = (int(self.arrays["row_starts"][at]) for at in (index, index + 1))
        ids = self.arrays["token_ids"][start:end].astype(np.int64)
        trained = np.array(self.arrays["trained"][start:end])
        labels = self.arrays["label_ids"][start:end].astype(np.int64) if "label_ids" in self.arrays else None
        return TokenRow(ids, trained, str(self.place(index)), labels, int(self.arrays["kinds"][index]))

    def place(self, index: int) -> Place:
        """File and line of a row."""
        return Place(self.file_names[int(self.arrays["files"][index])], int(self.arrays["lines"][index]))

    def rows_with(self, note: Note) -> NDArray[np.int64]:
        """Indices of the rows that have a note."""
        return np.flatnonzero(self.notes_B & int(note))


@dataclass(frozen=True)
class Items:
    """A store's rows, ``rows_per_item`` of them at a time; a :class:`tunesmith.data.types.TokenSet`."""

    store: TokenStore
    rows_per_item: int

    @property
    def lengths_B(self) -> TokenIds:
        """Tokens of each item."""
        return self._sums(self.store.lengths_B)

    @property
    def trained_counts_B(self) -> TokenIds:
        """Trained tokens of each item."""
        return self._sums(self.store.trained_counts_B)

    def __len__(self) -> int:
        return len(self.store) // self.rows_per_item

    def item(self, index: int) -> tuple[TokenRow, ...]:
        """The rows of one item."""
        first = index * self.rows_per_item
        return tuple(self.store[row] for row in range(first, first + self.rows_per_item))

    def _sums(self, counts: TokenIds) -> TokenIds:
        sums: TokenIds = counts.reshape(-1, self.rows_per_item).sum(axis=1)
        return sums


class StoreWriter:
    """Takes rows one by one; only a few numbers a row stay in memory."""

    def __init__(self, token_ids: BinaryIO, trained: BinaryIO, label_ids: BinaryIO | None) -> None:
        self._token_ids = token_ids
        self._trained = trained
        self._label_ids = label_ids
        self._row_starts = array("q", [0])
        self._trained_counts = array("q")
        self._lines = array("q")
        self._files = array("i")
        self._notes = array("i")
        self._kinds = array("b")
        self._file_numbers: dict[str, int] = {}

    def add(
        self,
        token_ids_T: TokenIds,
        trained_T: Flags,
        place: Place,
        notes: Note,
        *,
        label_ids_T: TokenIds | None = None,
        kind: int = 0,
    ) -> None:
        """Append one row; all rows of a labelled store have labels, those of others have none.

        Raises:
            UsageError: ``data.labels``.
        """
        if (label_ids_T is None) != (self._label_ids is None):
            raise UsageError("rows with and without labels of their own do not mix", code="data.labels")
        if self._label_ids is not None and label_ids_T is not None:
            self._label_ids.write(label_ids_T.astype(_LABELS["label_ids"]).tobytes())
        self._kinds.append(kind)
        self._token_ids.write(token_ids_T.astype(_ARRAYS["token_ids"]).tobytes())
        self._trained.write(trained_T.astype(_ARRAYS["trained"]).tobytes())
        self._row_starts.append(self._row_starts[-1] + len(token_ids_T))
        self._trained_counts.append(int(trained_T.sum()))
        self._lines.append(place.line)
        self._files.append(self._file_numbers.setdefault(place.file, len(self._file_numbers)))
        self._notes.append(int(notes))

    def row_arrays(self) -> dict[str, array[int]]:
        """The arrays with one entry a row."""
        return {
            "row_starts": self._row_starts,
            "trained_counts": self._trained_counts,
            "lines": self._lines,
            "files": self._files,
            "notes": self._notes,
            "kinds": self._kinds,
        }

    def file_names(self) -> list[str]:
        """Names of the files met, in the order of their numbers."""
        return list(self._file_numbers)


@contextmanager
def new_store(folder: Path, facts: Mapping[str, Any], *, labelled: bool = False) -> Iterator[StoreWriter]:
    """Write a store; it exists when the block has ended well. ``facts`` are read at the end.

    ``labelled`` stores keep a label for each token (see :class:`tunesmith.data.types.TokenRow`).

    Raises:
        OutputError: The folder exists or cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as scratch:
        with ExitStack() as files_open:
            token_ids, trained = (files_open.enter_context((scratch / name).open("wb")) for name in _STREAMS)
            label_ids = files_open.enter_context((scratch / "label_ids").open("wb")) if labelled else None
            writer = StoreWriter(token_ids, trained, label_ids)
            yield writer
        for name, values in writer.row_arrays().items():
            (scratch / name).write_bytes(np.frombuffer(values, dtype=values.typecode).astype(_ARRAYS[name]).tobytes())
        names = [*_ARRAYS, *(_LABELS if labelled else ())]
        files = {name: {"bytes": (scratch / name).stat().st_size, "sha256": _hash(scratch / name)} for name in names}
        write_json(
            scratch / _MANIFEST,
            {"version": STORE_VERSION, "file_names": writer.file_names(), "facts": dict(facts), "files": files},
        )


def open_token_store(folder: Path) -> TokenStore:
    """Open a store that was written before.

    Raises:
        DataError: ``data.tokens_missing`` or ``data.tokens_corrupted``.
    """
    if not (folder / _MANIFEST).is_file():
        raise DataError("there are no tokens here", code="data.tokens_missing", place=str(folder))
    try:
        manifest = read_json(folder / _MANIFEST)
        if manifest["version"] != STORE_VERSION:
            raise _corrupted(folder / _MANIFEST, f"version {manifest['version']}, known is {STORE_VERSION}")
        kinds = _ARRAYS | (_LABELS if "label_ids" in manifest["files"] else {})
        arrays = {name: _mapped(folder / name, kind, manifest["files"][name]) for name, kind in kinds.items()}
        return TokenStore(folder, tuple(manifest["file_names"]), manifest["facts"], arrays)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise _corrupted(folder, str(error)) from error


def _mapped(path: Path, kind: str, expected: Mapping[str, Any]) -> NDArray[Any]:
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise _corrupted(path, f"{size} bytes, written were {expected['bytes']}")
    if _hash(path) != expected["sha256"]:
        raise _corrupted(path, "its hash is not the one of the manifest")
    # An empty file cannot be mapped.
    return np.memmap(path, dtype=kind, mode="r") if size else np.zeros(0, dtype=kind)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _corrupted(path: Path, found: str) -> DataError:
    return DataError(
        "stored tokens are damaged",
        code="data.tokens_corrupted",
        place=str(path),
        value=found,
        hint="remove the folder; the tokens are made again from the data",
    )
