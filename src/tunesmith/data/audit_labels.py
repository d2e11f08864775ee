"""The audit of rows that a model reads: labels for a head, or a text to write for a model with encoder and decoder.

No chat template is at work there. Stored tokens and labels are compared with what the data gives once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from tunesmith.data.audit import Audit, ShownRow, common_warnings
from tunesmith.data.checks import Check, RowProblem, every_row_trains, make_check, nothing_lost_to_truncation
from tunesmith.data.labelled import LabelReader
from tunesmith.data.render import Note
from tunesmith.data.shown import pieces_of
from tunesmith.data.statistics import token_statistics
from tunesmith.data.store import TokenStore
from tunesmith.formats.examples import Example, Place
from tunesmith.formats.inspect import Inspection
from tunesmith.formats.overlap import Overlap

SAMPLE_ROWS = 200
_CHANGED = int(Note.CUT | Note.TOO_LONG)


def audit_labelled(
    store: TokenStore,
    examples: Iterable[tuple[Place, Example]],
    reader: LabelReader,
    inspection: Inspection,
    *,
    validation: TokenStore,
    overlap: Overlap | None = None,
    show: int = 0,
) -> Audit:
    """Audit rows whose labels a head learns.

    Args:
        store: The tokens of the training rows.
        examples: The rows again, read afresh; those of a sample are encoded again.
        reader: What the rows were encoded by.
        inspection: Of the training data.
        validation: The tokens of the validation rows.
        overlap: Validation rows that training gives away.
        show: So many rows are cut into pieces, the first ones; what is labelled is marked.
    """
    stores = [store, validation]
    checks = (
        every_row_trains(stores),
        _labels_match(store, examples, reader),
        nothing_lost_to_truncation(stores),
    )
    warnings = (*_unlearned(stores, reader), *common_warnings(store, validation, inspection, overlap))
    return Audit(checks, token_statistics(store), inspection, overlap, warnings, _shown(store, reader, show))


def audit_written(
    store: TokenStore,
    tokenizer: object,
    inspection: Inspection,
    *,
    validation: TokenStore,
    overlap: Overlap | None = None,
    show: int = 0,
) -> Audit:
    """Audit rows of a text that is read and another that is written; arguments as in :func:`audit_labelled`."""
    stores = [store, validation]
    end = getattr(tokenizer, "eos_token_id", None)
    checks = (every_row_trains(stores), _ends(stores, end), nothing_lost_to_truncation(stores))
    warnings = tuple(common_warnings(store, validation, inspection, overlap))
    rows = (store[number] for number in range(min(show, len(store))))
    shown = tuple(ShownRow(row.place, pieces_of(tokenizer, row)) for row in rows)
    return Audit(checks, token_statistics(store), inspection, overlap, warnings, shown)


def _labels_match(store: TokenStore, examples: Iterable[tuple[Place, Example]], reader: LabelReader) -> Check:
    """The stored tokens and labels are those of the data."""
    chosen = np.unique(np.linspace(0, len(store) - 1, min(SAMPLE_ROWS, len(store))).astype(np.int64)).tolist()
    wanted = {store.place(row): row for row in chosen if not int(store.notes_B[row]) & _CHANGED}

    def problems() -> Iterator[RowProblem]:
        left = dict(wanted)
        for place, example in examples if left else ():
            if place not in left:
                continue
            row, again = store[left.pop(place)], reader.encode(example)
            same = (
                np.array_equal(row.token_ids_T, again.token_ids_T)
                and np.array_equal(row.trained_T, again.marked_T)
                and row.label_ids_T is not None
                and np.array_equal(row.label_ids_T[row.trained_T], again.label_ids_T[again.marked_T])
            )
            if not same:
                yield RowProblem(str(place), "stored tokens or labels differ from those of the data")
            if not left:
                return

    return make_check(
        "labels_match",
        problems(),
        rows=f"{len(wanted)} sampled rows",
        good="tokens and labels are those of the data",
        bad="have tokens or labels that are not those of the data",
        hint="the data or the tokenizer changed; remove the stored tokens and start again",
    )


def _ends(stores: list[TokenStore], end: int | None) -> Check:
    """What is written ends with the token at which writing stops."""

    def problems() -> Iterator[RowProblem]:
        for store in stores:
            for row in range(len(store)):
                if end is None or int(store[row].token_ids_T[-1]) != end:
                    yield RowProblem(str(store.place(row)), "the text to write has no end-of-text token")

    return make_check(
        "end_of_text_trained",
        problems(),
        rows=f"{sum(map(len, stores))} rows",
        good="each text to write ends with the end-of-text token",
        bad="have a text to write without an end",
        hint="take a model whose tokenizer ends texts",
    )


def _unlearned(stores: list[TokenStore], reader: LabelReader) -> Iterator[str]:
    """Labels of the validation rows that no training row has."""
    trained, held_out = (
        set(np.unique(store.arrays["label_ids"][store.arrays["trained"]]).tolist()) for store in stores
    )
    unlearned = sorted(held_out - trained)
    if unlearned and reader.labels:
        names = ", ".join(reader.labels[label] for label in unlearned[:3])
        yield f"{len(unlearned)} labels of validation rows are in no training row, and cannot be learned: {names}"


def _shown(store: TokenStore, reader: LabelReader, show: int) -> tuple[ShownRow, ...]:
    tokenizer = getattr(reader, "tokenizer", None)
    rows = (store[number] for number in range(min(show, len(store))))
    return tuple(ShownRow(row.place, pieces_of(tokenizer, row, reader.name)) for row in rows)
