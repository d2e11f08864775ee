"""Measure systems on the held-out rows of a run, each once: what was measured is kept in the run folder."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tunesmith.catalog.heads import read_head
from tunesmith.data.types import TokenSet
from tunesmith.evaluation.beside import Beside
from tunesmith.evaluation.held_out import Layout
from tunesmith.evaluation.questions import Asked, HeldOut, ask_with_examples
from tunesmith.evaluation.systems import Measured, Ruler, measure_system, measured_from_json
from tunesmith.formats.examples import Example
from tunesmith.formats.read import choose_rows
from tunesmith.models.attention import ATTENTION
from tunesmith.pipeline.beside import NOTHING_BESIDE, make_beside
from tunesmith.pipeline.prepare import Prepared, head_of
from tunesmith.pipeline.supervision import SUPERVISION, make_ruler
from tunesmith.pipeline.told import Teller
from tunesmith.recipe.objectives import HEADS
from tunesmith.recipe.resolved import Resolved
from tunesmith.runs.atomic import read_json, telling_output_errors, write_json
from tunesmith.tasks import EvaluationRow

# Among so many times more rows than are shown, different labels are looked for, and rows that are not measured.
CANDIDATES = 20


@dataclass(frozen=True)
class Bench:
    """What all systems of a run are measured on and by."""

    prepared: Prepared
    resolved: Resolved
    held_out: HeldOut
    ruler: Ruler
    folder: Path
    teller: Teller
    beside: Beside = NOTHING_BESIDE


def make_bench(
    prepared: Prepared,
    resolved: Resolved,
    folder: Path,
    teller: Teller,
    *,
    attention: str,
    should_stop: Callable[[], bool],
) -> Bench:
    """Choose the rows, seeded, and fix how they are measured.

    ``attention`` is the models'; without the packed one rows go through one at a time. ``folder`` keeps what was
    measured; it is made if need be.
    """
    with telling_output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    packed = attention == ATTENTION
    layout = Layout(
        tokens_per_micro_batch=resolved.tokens_per_micro_batch,
        layout=resolved.layout if packed else "padded",
        share_prefix=resolved.share_prefix and packed,
        precision=resolved.precision,
    )
    ruler = make_ruler(
        prepared,
        resolved,
        layout,
        on_progress=lambda done, total: teller.progress("evaluate", done, total, "rows"),
        should_stop=should_stop,
    )
    beside = make_beside(prepared, resolved, layout, packed=packed, should_stop=should_stop)
    return Bench(prepared, resolved, choose_held_out(prepared, resolved), ruler, folder, teller, beside)


def choose_held_out(prepared: Prepared, resolved: Resolved) -> HeldOut:
    """The held-out rows that are measured, and the questions among them."""
    held_out = prepared.validation.items
    items = [held_out.item(at) for at in _chosen(held_out, resolved.evaluation_rows, resolved.seed)]
    chosen = {item[0].place for item in items}
    questions: dict[str, tuple[EvaluationRow, Example]] = {}
    if resolved.max_new_tokens or resolved.objective.name in HEADS:
        ask = SUPERVISION[resolved.objective.name].shown
        for place, example in prepared.data.held_out():
            if str(place) in chosen and (question := ask(prepared.task, example)) is not None:
                questions.setdefault(str(place), (question, example))
    asked = tuple(question for question, _ in questions.values())
    return HeldOut(items, tuple(questions), asked, tuple(example for _, example in questions.values()))


def _chosen(held_out: TokenSet, count: int, seed: int) -> Sequence[int]:
    """Items to measure; of texts that are laid out in pieces, as many texts as there can be."""
    places = [held_out.item(at)[0].place for at in range(len(held_out))]
    if len(set(places)) == len(places):
        return choose_rows(len(places), count, seed)
    pieces = Counter[str]()
    turns: list[tuple[int, int]] = []
    for at in random.Random(seed).sample(range(len(places)), len(places)):  # noqa: S311  (a repeatable choice)
        turns.append((pieces[places[at]], at))
        pieces[places[at]] += 1
    # Sorting is stable: each text's first piece in the order drawn, then each one's second.
    return sorted(at for _, at in sorted(turns, key=lambda turn: turn[0])[:count])


def ask_as_is(bench: Bench) -> Asked:
    """The questions without anything before them, in the form that the objective's models take."""
    return SUPERVISION[bench.resolved.objective.name].ask(bench.held_out, bench.prepared.tokenizer)


def measure_base(
    bench: Bench, model: Any, *, already: Measured | None = None, keep: bool = True, folder: Path | None = None
) -> Measured:
    """The model as it came; kept for a later attempt if ``keep``, also where it was measured ``already``, in pieces.

    ``folder`` is where it lies, if not where the run's model does.
    """

    def measure() -> Measured:
        return already or measure_system(
            "base", _base_label(bench, folder or bench.prepared.model.folder), model, ask_as_is(bench), bench.ruler
        )

    return _once(bench, "base", lambda: bench.beside.added_to(measure(), model)) if keep else measure()


def measure_few_shot(bench: Bench, model: Any) -> Measured | None:
    """The model as it came, with examples in the prompt; None where there are no examples to show."""
    if not bench.resolved.few_shot or not bench.held_out.questions:
        return None
    examples = _shown_examples(bench)
    if not examples:
        bench.teller.warn(["no row is left to be shown, so there is no few-shot system"], "evaluate.few_shot")
        return None
    asked, count = _with_examples(bench, examples)
    if not count:
        bench.teller.warn(["no example fits into the prompt, so there is no few-shot system"], "evaluate.few_shot")
        return None
    label = f"Base, {count} example{'s'[: count > 1]} in the prompt"
    return _once(bench, "few_shot", lambda: measure_system("few_shot", label, model, asked, bench.ruler))


def measure_tuned(bench: Bench, model: Any) -> Measured:
    """The trained model."""
    asked = ask_as_is(bench)

    def measure() -> Measured:
        return bench.beside.added_to(measure_system("tuned", "Tuned", model, asked, bench.ruler), model)

    return _once(bench, "tuned", measure)


def _with_examples(bench: Bench, examples: list[Example]) -> tuple[Asked, int]:
    prepared = bench.prepared
    context = prepared.model_facts.context_length
    room = None if context is None else context - bench.resolved.max_new_tokens
    return ask_with_examples(bench.held_out, prepared.task, examples, prepared.tokenizer, most_tokens=room)


def _shown_examples(bench: Bench) -> list[Example]:
    """Training rows to show, seeded; with labels, as many different ones as possible."""
    prepared, count = bench.prepared, bench.resolved.few_shot
    by_label = bool(prepared.task.labels)
    # Where nothing is trained, rows to be shown are among those to be measured, and some of them are.
    wanted = CANDIDATES * count if by_label or prepared.data.measured_only else count
    chosen = set(choose_rows(prepared.train.facts["examples"], wanted, bench.resolved.seed))
    found: dict[str, Example] = {}
    others: list[Example] = []
    measured = set(bench.held_out.places)
    for number, (place, example) in enumerate(prepared.data.train()):
        usable = number in chosen and str(place) not in measured
        question = prepared.task.evaluation(example) if usable else None
        if question is None:
            continue
        if by_label and question.shown_reference not in found:
            found[question.shown_reference] = example
        else:
            others.append(example)
    return [*found.values(), *others][:count]


def _base_label(bench: Bench, folder: Path) -> str:
    quantization = getattr(bench.resolved.technique, "quantization", None)
    in_bits = "" if quantization is None else f", weights in {quantization}"
    head = head_of(bench.prepared, bench.resolved.objective, 0)
    known = None if head is None else read_head(folder)
    is_known = known is not None and head is not None and (known.kind, known.labels) == (head.kind, head.labels)
    untrained = "" if head is None or is_known else ", head untrained"
    return f"Base{in_bits}{untrained}"


def remembered(bench: Bench, name: str) -> Measured | None:
    """A measurement of an earlier attempt of the same run, if it is there."""
    path = bench.folder / f"{name}.json"
    if not path.exists():
        return None
    try:
        kept = read_json(path)
    except orjson.JSONDecodeError:
        return None
    return measured_from_json(kept["measured"]) if kept.get("identity") == _identity(bench) else None


def _once(bench: Bench, name: str, measure: Callable[[], Measured]) -> Measured:
    """A measurement of an earlier attempt, or a new one."""
    measured = remembered(bench, name)
    if measured is None:
        measured = measure()
        write_json(bench.folder / f"{name}.json", {"identity": _identity(bench), "measured": measured.to_json()})
    return measured


def _identity(bench: Bench) -> str:
    data = bench.prepared.data
    return f"{bench.resolved.identity} {data.train_fingerprint()} {data.held_out_fingerprint()}"
