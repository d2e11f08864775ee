"""What was found in training files, for a terminal."""

from __future__ import annotations

from typing import Any

from tunesmith.cli.audit_view import print_labels
from tunesmith.cli.tables import Column, print_table
from tunesmith.cli.terminal import clean, out
from tunesmith.cli.words import count, storage
from tunesmith.formats.examples import Conversation, Example, Place
from tunesmith.formats.inspect import Inspection
from tunesmith.formats.overlap import Overlap

_MOST_CHARACTERS = 2000


def print_inspection(found: Inspection, *, refused: bool) -> None:
    """Print an inspection. Where the rows are refused, the error that follows names them with remedies."""
    out(clean(found.source), "bold")
    print_table([Column(""), Column("", wrap=True)], [[name, value] for name, value in _facts(found)], "  ")
    for warning in found.warnings:
        out(f"warning: {clean(warning)}", "yellow")
    print_labels(found.label_counts)
    if found.bad_rows.count and not refused:
        out()
        out(f"{count(found.bad_rows.count, 'bad row')}, skipped", "yellow")
        for line in found.bad_rows.lines():
            out(f"  {clean(line)}")


def _facts(found: Inspection) -> list[tuple[str, str]]:
    kinds = ", ".join(dict.fromkeys(file.format for file in found.files))
    size = storage(sum(file.bytes for file in found.files))
    columns = ", ".join(field if field == name else f"{field} from {name}" for field, name in found.columns.items())
    facts = [
        ("files", f"{count(len(found.files), 'file')}, {kinds}, {size}"),
        ("shape", found.shape),
        ("columns", columns),
        ("unused", ", ".join(found.unused_columns)),
        ("task", found.task),
        ("rows", f"{found.rows:,}"),
        ("bad rows", f"{found.bad_rows.count:,}"),
        ("duplicates", f"{found.duplicates:,}"),
    ]
    return [(name, value) for name, value in facts if value]


def print_overlap(shared: Overlap) -> None:
    """Print how much of the held-out data the training data gives away."""
    out()
    if not shared.same_prompt:
        out("no held-out row is in the training data", "green")
        return
    out(
        f"{count(shared.same_prompt, 'held-out row')} with a prompt that is in the training data, "
        f"{shared.exact:,} of them with the same answer",
        "yellow",
    )
    for here, there in shared.first:
        out(f"  {clean(str(here))} meets {clean(str(there))}")


def print_example(place: Place, example: Example) -> None:
    """Print a row as it was understood."""
    out()
    out(clean(str(place)), "bold")
    if isinstance(example, Conversation):
        rows = [
            [message.role + ("" if message.trained else " (not learned)"), message.content]
            for message in example.messages
        ]
    else:
        rows = [[name, _text(value)] for name, value in vars(example).items() if value not in (None, (), "")]
    for name, value in rows:
        out(f"  {name}: {_clipped(clean(value))}")


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value)
    return str(value)


def _clipped(text: str) -> str:
    if len(text) <= _MOST_CHARACTERS:
        return text
    return f"{text[:_MOST_CHARACTERS]}... ({len(text) - _MOST_CHARACTERS:,} more characters)"
