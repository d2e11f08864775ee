"""The audit of the supervision: is what trains what should train? It runs before every training.

Every row is looked at through the stored tokens; a fixed sample of rows is compared with the data and with the
tokenizer's own template. Memory does not grow with the data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tunesmith.data import checks
from tunesmith.data.checks import Check, SampledRow
from tunesmith.data.render import Note
from tunesmith.data.shown import Piece, pieces_of
from tunesmith.data.statistics import TokenStatistics, token_statistics
from tunesmith.data.store import TokenStore
from tunesmith.data.template import ChatTemplate, chat_template
from tunesmith.errors import Problem, SupervisionError
from tunesmith.formats.examples import Conversation, Document, Example, Place, PreferencePair, RatedAnswer
from tunesmith.formats.inspect import Inspection
from tunesmith.formats.overlap import Overlap
from tunesmith.tasks import PreparedTask
from tunesmith.tasks.preference import REJECTED, answers_of

SAMPLE_ROWS = 200
_FIRST_PLACES = 3
_FEW_ROWS_OF_A_LABEL = 5
_MUCH_MORE = 20


@dataclass(frozen=True)
class ShownRow:
    """A row as pieces, for showing what trains.

    Attributes:
        place: Where it comes from.
        pieces: Its text, token by token.
        avoided: What trains of it is an answer that is to become unlikely.
    """

    place: str
    pieces: tuple[Piece, ...]
    avoided: bool = False


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        checks: All named checks.
        tokens: Counts of the training rows.
        inspection: The data as it was read; has label counts and duplicates.
        overlap: Validation rows that training rows give away, or None where that was not looked for.
        warnings: What the user should know and what does not stop a training.
        shown: The rows asked for.
    """

    checks: tuple[Check, ...]
    tokens: TokenStatistics
    inspection: Inspection
    overlap: Overlap | None
    warnings: tuple[str, ...]
    shown: tuple[ShownRow, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(check.ok for check in self.checks)

    def require_ok(self) -> None:
        """Raise where a check failed.

        Raises:
            SupervisionError: With one problem for each failed check, ``supervision.NAME``.
        """
        failed = [check for check in self.checks if not check.ok]
        if failed:
            names = ", ".join(check.name for check in failed)
            raise SupervisionError(
                f"the audit of the training rows failed: {names}", problems=[_problem(check) for check in failed]
            )

    def to_json(self) -> dict[str, Any]:
        """The content of audit.json."""
        overlap = self.overlap
        return {
            "ok": self.ok,
            "checks": [check.to_json() for check in self.checks],
            "tokens": self.tokens.to_json(),
            "labels": dict(self.inspection.label_counts),
            "duplicates": self.inspection.duplicates,
            "overlap": None if overlap is None else {"exact": overlap.exact, "same_prompt": overlap.same_prompt},
            "warnings": list(self.warnings),
            "shown": [
                {
                    "place": row.place,
                    "avoided": row.avoided,
                    "pieces": [asdict(piece) for piece in row.pieces],
                }
                for row in self.shown
            ],
            "data": self.inspection.to_json(),
        }


def audit(
    store: TokenStore,
    examples: Iterable[tuple[Place, Example]],
    task: PreparedTask,
    tokenizer: Any,
    inspection: Inspection,
    *,
    validation: TokenStore | None = None,
    overlap: Overlap | None = None,
    stop_token_ids: Collection[int] = (),
    everything: bool = False,
    show: int = 0,
    sample_rows: int = SAMPLE_ROWS,
) -> Audit:
    """Audit tokens that are to be trained on.

    Args:
        store: The tokens of the training rows.
        examples: The rows again, read afresh; only those of the sample are rendered.
        task: The task that the tokens were made with.
        tokenizer: Likewise the tokenizer.
        inspection: Of the training data.
        validation: The tokens of the validation rows; checks of all rows look at them too.
        overlap: From :func:`tunesmith.formats.overlap.overlap`, where a validation source of its own is given.
        stop_token_ids: Where the model's generation stops, beside the tokenizer's end-of-text token.
        everything: Whole texts are learned, not only answers.
        show: So many rows are cut into pieces, the first ones.
        sample_rows: Size of the sample.

    Raises:
        ModelError: As :func:`tunesmith.data.template.chat_template`.
    """
    stores = [store] if validation is None else [store, validation]
    documents = all((each.notes_B & int(Note.DOCUMENT)).all() for each in stores)
    template = None if documents else chat_template(tokenizer)
    sample = _sample(store, examples, task, sample_rows)
    text_ends = set() if tokenizer.eos_token_id is None else {int(tokenizer.eos_token_id)}
    turn_ends = text_ends | set(stop_token_ids)
    if template is not None and template.end_of_turn_id is not None:
        turn_ends.add(template.end_of_turn_id)
    what_trains = (
        (checks.everything_trains(stores),)
        if everything
        else (
            checks.only_answers_train(stores, sample, template),
            checks.end_of_turn_trained(stores, turn_ends, text_ends),
        )
    )
    found = (
        checks.every_row_trains(stores),
        *what_trains,
        checks.template_matches(sample, template, tokenizer),
        checks.messages_rendered(stores),
        checks.tools_rendered(stores, template),
        checks.nothing_lost_to_truncation(stores),
    )
    warnings = (
        *common_warnings(store, validation, inspection, overlap),
        *_stop_warnings(template, text_ends | set(stop_token_ids), known=bool(stop_token_ids)),
        *_lost_warnings(sample, tokenizer),
    )
    preferred = task.name == "preference"
    shown = tuple(
        ShownRow(store[n].place, pieces_of(tokenizer, store[n]), preferred and store.arrays["kinds"][n] == REJECTED)
        for n in range(min(show, len(store)))
    )
    return Audit(found, token_statistics(store), inspection, overlap, warnings, shown)


def _sample(
    store: TokenStore, examples: Iterable[tuple[Place, Example]], task: PreparedTask, sample_rows: int
) -> list[SampledRow]:
    """Rows evenly spread over the store, with what the data says of them."""
    chosen = np.unique(np.linspace(0, len(store) - 1, min(sample_rows, len(store))).astype(np.int64))
    wanted = {store.place(int(index)) for index in chosen}
    items: dict[tuple[Place, int], Conversation | Document] = {}
    found: set[Place] = set()
    for place, example in examples if wanted else ():
        if place in wanted:
            found.add(place)
            items |= {(place, kind): item for kind, item in _by_kind(task, example)}
            if len(found) == len(wanted):
                break
    seen: set[tuple[Place, int]] = set()
    rows: list[SampledRow] = []
    for index in map(int, chosen):
        key = store.place(index), int(store.arrays["kinds"][index])
        if key not in seen:
            seen.add(key)
            rows.append(_whole_row(store, index, items.get(key)))
    return rows


def _by_kind(task: PreparedTask, example: Example) -> list[tuple[int, Conversation | Document]]:
    """What the rows of an example hold, by their kind."""
    if isinstance(example, PreferencePair | RatedAnswer):
        return [(answer.kind, answer.conversation) for answer in answers_of(example)]
    return [(0, task.training(example))]


def _whole_row(store: TokenStore, index: int, item: Conversation | Document | None) -> SampledRow:
    """A stored row; the pieces of a document that was laid out as several rows are joined again."""
    first = last = index
    while first and store.notes_B[first - 1] & int(Note.GOES_ON):
        first -= 1
    while store.notes_B[last] & int(Note.GOES_ON):
        last += 1
    pieces = [store[number] for number in range(first, last + 1)]
    ids_T = np.concatenate([pieces[0].token_ids_T, *(piece.token_ids_T[1:] for piece in pieces[1:])])
    trained_T = np.concatenate([pieces[0].trained_T, *(piece.trained_T[1:] for piece in pieces[1:])])
    return SampledRow(pieces[0].place, ids_T, trained_T, bool(store.notes_B[last] & int(Note.CUT)), item)


def common_warnings(
    store: TokenStore, validation: TokenStore | None, inspection: Inspection, overlap: Overlap | None
) -> Iterable[str]:
    """What is worth knowing of rows of every kind."""
    yield from inspection.warnings
    yield from _store_warnings(store, "")
    if validation is not None:
        yield from _store_warnings(validation, "validation: ")
    yield from _data_warnings(inspection, overlap)


def _store_warnings(store: TokenStore, side: str) -> Iterable[str]:
    told = {
        Note.SPECIAL_TEXT: "hold text that reads as a special token of the model, and are encoded so",
        Note.PROMPT_DIFFERS: "have an answer that does not follow the prompt as the model's template opens it",
        Note.SYSTEM_MOVED: "have a system message, which the model's template does not take; it goes before the "
        "first user message",
        Note.THINKING_DROPPED: "have thoughts in answers, which the model's template leaves out",
        Note.CUT: f"are cut at {store.facts['max_length']} tokens",
    }
    for note, words in told.items():
        rows = store.rows_with(note)
        if len(rows):
            first = ", ".join(str(store.place(int(row))) for row in rows[:_FIRST_PLACES])
            yield f"{side}{len(rows)} of {len(store)} rows {words} (first: {first})"
    if store.facts["skipped"]:
        first = ", ".join(store.facts["skipped_first"][:_FIRST_PLACES])
        limit = store.facts["max_length"]
        yield f"{side}{store.facts['skipped']} rows longer than {limit} tokens are left out (first: {first})"
    if store.facts["unusable"]:
        first = ", ".join(store.facts["unusable_first"][:_FIRST_PLACES])
        yield f"{side}{store.facts['unusable']} rows cannot be learned and are left out (first: {first})"
    if store.facts["split_documents"]:
        limit = store.facts["max_length"]
        yield f"{side}{store.facts['split_documents']} texts longer than {limit} tokens are laid out as several rows"


def _stop_warnings(template: ChatTemplate | None, stops: Collection[int], *, known: bool) -> Iterable[str]:
    if known and template is not None and template.end_of_turn_id is not None and template.end_of_turn_id not in stops:
        yield (
            f"answers end with {template.end_of_turn}, at which the model's generation settings do not stop; "
            "other programs may let it run on"
        )


def _lost_warnings(sample: Sequence[SampledRow], tokenizer: Any) -> Iterable[str]:
    places = checks.rows_with_lost_characters(sample, tokenizer)
    if places:
        first = ", ".join(places[:_FIRST_PLACES])
        yield (
            f"{len(places)} of {len(sample)} sampled rows have characters that the model's tokenizer does not know; "
            f"they are lost (first: {first})"
        )


def _data_warnings(inspection: Inspection, overlap: Overlap | None) -> Iterable[str]:
    if inspection.duplicates:
        yield f"{inspection.duplicates} of {inspection.good_rows} rows are copies of an earlier row"
    counts = inspection.label_counts
    few = [label for label, count in counts.items() if count < _FEW_ROWS_OF_A_LABEL]
    if few:
        yield f"{len(few)} of {len(counts)} labels have fewer than {_FEW_ROWS_OF_A_LABEL} rows: {_names(few)}"
    if counts and max(counts.values()) > _MUCH_MORE * min(counts.values()):
        most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
        yield f"labels are unbalanced: {counts[most]} of {most}, {counts[least]} of {least}"
    if overlap is not None and overlap.same_prompt:
        first = ", ".join(f"{held} and {train}" for held, train in overlap.first[:_FIRST_PLACES])
        yield (
            f"{overlap.same_prompt} validation rows have a prompt that is trained on, {overlap.exact} of them the "
            f"whole row (first: {first}); scores on them are too good"
        )


def _names(labels: Sequence[str]) -> str:
    return ", ".join(labels[:_FIRST_PLACES]) + (", ..." if len(labels) > _FIRST_PLACES else "")


def _problem(check: Check) -> Problem:
    shown = "; ".join(f"{row.place} {row.message}" for row in check.problems[:_FIRST_PLACES])
    return Problem(
        code=f"supervision.{check.name}",
        message=check.detail,
        place=check.problems[0].place if check.problems else None,
        value=shown or None,
        hint=check.hint,
    )
