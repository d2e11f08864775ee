"""The examples of a data set, one at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from tunesmith.errors import DataError, UsageError
from tunesmith.formats.examples import Example, Place
from tunesmith.formats.inspect import Inspection, check_policy, inspect_source, parsed_rows
from tunesmith.formats.kinds import SourceFile
from tunesmith.formats.rows import BadRow

_Row = TypeVar("_Row")


def as_inspection(
    source: Inspection | str | Path, columns: Mapping[str, str] | None = None, shape: str | None = None
) -> Inspection:
    """The inspection itself, or a fresh one of a source."""
    return source if isinstance(source, Inspection) else inspect_source(source, columns=columns, shape=shape)


def read_examples(
    source: Inspection | str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    shape: str | None = None,
    on_bad_rows: str = "refuse",
) -> Iterator[tuple[Place, Example]]:
    """Yield every good row in order, with its place.

    Args:
        source: An inspection, whose shape and columns are used, or a source, which is inspected first.
        columns: As in :func:`tunesmith.formats.inspect.inspect_source`; only with a source.
        shape: Likewise.
        on_bad_rows: ``refuse`` raises before the first row if any row is bad; ``skip`` leaves bad rows out, which
            the inspection has counted.

    Raises:
        DataError: As :meth:`tunesmith.formats.inspect.Inspection.require_usable`; and ``data.changed`` where a file is
            not the one that was inspected.
        UsageError: ``on_bad_rows`` is neither.
    """
    check_policy(on_bad_rows)
    inspection = as_inspection(source, columns, shape)
    inspection.require_usable(on_bad_rows)
    return _examples(inspection)


def _examples(inspection: Inspection) -> Iterator[tuple[Place, Example]]:
    for facts in inspection.files:
        size = facts.path.stat().st_size if facts.path.exists() else -1
        if size != facts.bytes:
            raise DataError(
                "the file changed after it was inspected",
                code="data.changed",
                place=str(facts.path),
                value=f"{facts.bytes} bytes then, {max(size, 0)} now",
                hint="start again, and leave the file alone meanwhile",
            )
    files = tuple(SourceFile(facts.name, facts.path, facts.format, facts.compressed) for facts in inspection.files)
    for found in parsed_rows(files, inspection.shape, inspection.columns):
        if not isinstance(found, BadRow):
            yield found


def choose_rows(rows: int, count: int, seed: int) -> tuple[int, ...]:
    """Choose ``count`` of ``rows`` row numbers (from 0), in order, the same for the same seed.

    A larger count contains the choice of every smaller one; a count of ``rows`` or more takes all.

    Raises:
        UsageError: A number below zero.
    """
    if rows < 0 or count < 0:
        raise UsageError("numbers of rows are not negative", code="data.row_count", value=f"{count} of {rows}")
    order = list(range(rows))
    random.Random(seed).shuffle(order)  # noqa: S311  (a repeatable choice, not a secret)
    return tuple(sorted(order[:count]))


def weighted_rows(rows: Callable[[], Iterable[_Row]], count: int, weight: float, seed: int) -> Iterator[_Row]:
    """Rows of a source by its weight: a whole number repeats them, a fraction takes that share of them.

    Args:
        rows: Reads them anew each time.
        count: How many there are.
        weight: 1.0 for each row once.
        seed: Of the choice that a fraction makes.
    """
    whole = int(weight)
    for _ in range(whole):
        yield from rows()
    if weight > whole:
        chosen = set(choose_rows(count, max(1, round((weight - whole) * count)), seed))
        yield from (row for number, row in enumerate(rows()) if number in chosen)
