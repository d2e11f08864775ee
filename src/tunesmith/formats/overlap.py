"""Rows of a validation set that the training set gives away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.formats.examples import Place
from tunesmith.formats.identity import example_digest, group_digest
from tunesmith.formats.inspect import Inspection
from tunesmith.formats.read import as_inspection, read_examples

FIRST_PAIRS = 5


@dataclass(frozen=True)
class Overlap:
    """How many validation rows the training set holds too.

    Attributes:
        exact: Validation rows that are also training rows.
        same_prompt: Validation rows whose prompt, text or context is also in the training set; contains ``exact``.
        first: The first validation rows of these kinds, each with the training row it meets.
    """

    exact: int
    same_prompt: int
    first: tuple[tuple[Place, Place], ...]


def overlap(
    train: Inspection | str | Path,
    validation: Inspection | str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    shape: str | None = None,
) -> Overlap:
    """Compare two sets; memory grows with the validation set only. Bad rows are passed over.

    Raises:
        DataError: A set cannot be read.
    """
    held = as_inspection(validation, columns, shape)
    wanted_rows: set[bytes] = set()
    wanted_prompts: set[bytes] = set()
    for _, example in read_examples(held, on_bad_rows="skip"):
        wanted_rows.add(example_digest(example))
        wanted_prompts.add(group_digest(example))
    met_rows: dict[bytes, Place] = {}
    met_prompts: dict[bytes, Place] = {}
    for place, example in read_examples(as_inspection(train, columns, shape), on_bad_rows="skip"):
        if (row := example_digest(example)) in wanted_rows:
            met_rows.setdefault(row, place)
        if (prompt := group_digest(example)) in wanted_prompts:
            met_prompts.setdefault(prompt, place)
    exact = same_prompt = 0
    first: list[tuple[Place, Place]] = []
    for place, example in read_examples(held, on_bad_rows="skip"):
        row_place = met_rows.get(example_digest(example))
        prompt_place = met_prompts.get(group_digest(example))
        exact += row_place is not None
        same_prompt += prompt_place is not None
        found = row_place or prompt_place
        if found is not None and len(first) < FIRST_PAIRS:
            first.append((place, found))
    return Overlap(exact, same_prompt, tuple(first))
