"""A seeded split into training and validation rows that lets no prompt stand on both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from tunesmith.errors import DataError, UsageError
from tunesmith.formats.examples import Example, Place
from tunesmith.formats.identity import example_digest, group_digest
from tunesmith.formats.inspect import Inspection
from tunesmith.formats.read import as_inspection, read_examples


@dataclass(frozen=True)
class Split:
    """Which rows validate.

    Attributes:
        fraction: The share of rows asked for.
        seed: What the choice depends on, together with the rows.
        train_rows: Rows to train on.
        validation_rows: Rows to validate on.
        groups: How many groups of rows were kept together.
        grouped_by: ``prompt`` (text, question or context), or ``row`` where all rows share one prompt.
        validation_groups: Hashes of the groups that validate.
    """

    fraction: float
    seed: int
    train_rows: int
    validation_rows: int
    groups: int
    grouped_by: str
    validation_groups: frozenset[bytes] = field(repr=False)

    def side(self, place: Place, example: Example) -> str:  # noqa: ARG002  (a side may come to depend on the place)
        """The side of an example: ``train`` or ``validation``."""
        digest = group_digest(example) if self.grouped_by == "prompt" else example_digest(example)
        return "validation" if digest in self.validation_groups else "train"

    def describe(self) -> str:
        """The split in words, for reports."""
        return (
            f"{self.validation_rows} of {self.train_rows + self.validation_rows} rows held out for validation "
            f"(seed {self.seed}, kept together by {self.grouped_by})"
        )


def plan_split(
    source: Inspection | str | Path,
    *,
    fraction: float,
    seed: int,
    columns: Mapping[str, str] | None = None,
    shape: str | None = None,
    on_bad_rows: str = "refuse",
) -> Split:
    """Decide which rows validate; depends on the rows and the seed, not on the order of the rows.

    Rows with the same prompt, text, question or context stay on one side. Where all rows share one prompt, only equal
    rows stay together. Both sides get at least one row.

    Raises:
        DataError: One row, or only copies of one row (``data.too_small_to_split``); errors of reading.
        UsageError: The fraction is not between 0 and 1 (``data.fraction``).
    """
    if not 0 < fraction < 1:
        raise UsageError("the validation fraction lies between 0 and 1", code="data.fraction", value=fraction)
    inspection = as_inspection(source, columns, shape)
    by_prompt: Counter[bytes] = Counter()
    by_row: Counter[bytes] = Counter()
    for _, example in read_examples(inspection, on_bad_rows=on_bad_rows):
        by_prompt[group_digest(example)] += 1
        # Whole rows matter only while a single prompt was seen; this keeps one table in memory, not two.
        if len(by_prompt) == 1:
            by_row[example_digest(example)] += 1
    grouped_by, groups = ("prompt", by_prompt) if len(by_prompt) > 1 else ("row", by_row)
    rows = groups.total()
    if len(groups) < 2:
        raise DataError(
            "one row cannot be split into training and validation"
            if rows == 1
            else f"{rows} copies of one row cannot be split into training and validation",
            code="data.too_small_to_split",
            place=inspection.source,
            hint="add different rows, or give a validation file of its own",
        )
    chosen = _choose_groups(groups, max(1, round(rows * fraction)), seed)
    validation_rows = sum(groups[group] for group in chosen)
    return Split(
        fraction=fraction,
        seed=seed,
        train_rows=rows - validation_rows,
        validation_rows=validation_rows,
        groups=len(groups),
        grouped_by=grouped_by,
        validation_groups=frozenset(chosen),
    )


def _choose_groups(groups: Counter[bytes], wanted_rows: int, seed: int) -> list[bytes]:
    """Take groups in a seeded order as long as they fit into the wanted number of rows."""
    key = blake2b(str(seed).encode(), digest_size=32).digest()
    order = sorted(groups, key=lambda group: blake2b(group, key=key, digest_size=16).digest())
    chosen: list[bytes] = []
    total = 0
    for group in order:
        if total + groups[group] <= wanted_rows and len(chosen) < len(groups) - 1:
            chosen.append(group)
            total += groups[group]
    # Every group is larger than what is wanted: the smallest comes nearest.
    return chosen or [min(order, key=lambda group: groups[group])]
