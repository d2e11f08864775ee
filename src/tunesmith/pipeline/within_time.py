"""Measure the base model in its share of the budget: on fewer rows where a machine takes longer than was estimated.

Which rows are left out depends on the seed, not on their place in the data, and all systems are measured on the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tunesmith.evaluation.held_out import RowLosses
from tunesmith.evaluation.questions import HeldOut
from tunesmith.evaluation.systems import Measured
from tunesmith.formats.read import choose_rows
from tunesmith.pipeline.measure import Bench, measure_base, remembered
from tunesmith.recipe.resolve import EVALUATION_SHARE, FEWEST_EVALUATION_ROWS

# The first rows tell what the others will take; batches of fewer rows would be slow, more would come too late.
FIRST_ROWS = 32
# Estimates of rows are meant to fill the share; what takes much longer is cut.
_SPARE = 1.5


def base_seconds(bench: Bench) -> float | None:
    """Time for measuring the base: its part of the share, with some to spare; None where nothing bounds it.

    Rows that the recipe asks for by number are measured, whatever they take.
    """
    budget = bench.resolved.budget_seconds
    if budget is None or bench.prepared.recipe.evaluate.rows != "auto":
        return None
    systems = 3 if bench.resolved.few_shot else 2
    return _SPARE * budget * EVALUATION_SHARE / systems


def measure_base_within(
    bench: Bench, model: Any, seconds: float | None, now: Callable[[], float] = time.monotonic
) -> tuple[Bench, Measured]:
    """The base's measurement, and the bench with the rows that there was time for.

    Raises:
        Stopped, DataError: As :func:`tunesmith.evaluation.systems.measure_system`.
    """
    rows = len(bench.held_out.items)
    kept = remembered(bench, "base")
    if kept is not None:
        return _narrowed(bench, len(kept.losses.counts_B)), kept
    if seconds is None or rows <= FIRST_ROWS:
        return bench, measure_base(bench, model)
    started = now()
    done = FIRST_ROWS
    pieces = [(chosen := choose_rows(rows, done, bench.resolved.seed), _piece(bench, model, chosen))]
    while done < rows:
        left = seconds - (now() - started)
        affordable = int(left / max((now() - started) / done, 1e-9))
        more = rows - done if affordable >= rows - done else min(affordable, FIRST_ROWS)
        if more < 1 and done >= FEWEST_EVALUATION_ROWS:
            break
        earlier = set(choose_rows(rows, done, bench.resolved.seed))
        done += max(1, more)
        chosen = tuple(at for at in choose_rows(rows, done, bench.resolved.seed) if at not in earlier)
        pieces.append((chosen, _piece(bench, model, chosen)))
    if done < rows:
        bench.teller.warn(
            [
                f"{done} instead of {rows} held-out rows are measured: this machine is slower than estimated, and "
                f"measuring should leave most of the budget to training"
            ],
            "evaluate.rows",
        )
    narrowed = _narrowed(bench, done)
    joined = _joined(bench.held_out, pieces)
    return narrowed, measure_base(narrowed, model, already=joined)


def _narrowed(bench: Bench, rows: int) -> Bench:
    total = len(bench.held_out.items)
    if rows >= total:
        return bench
    return replace(bench, held_out=bench.held_out.take(choose_rows(total, rows, bench.resolved.seed)))


def _piece(bench: Bench, model: Any, chosen: Sequence[int]) -> Measured:
    """Some rows alone; not kept, since only the whole counts."""
    piece = replace(bench, held_out=bench.held_out.take(chosen))
    return measure_base(piece, model, keep=False)


def _joined(whole: HeldOut, pieces: Sequence[tuple[Sequence[int], Measured]]) -> Measured:
    """Several measurements as one, items and answers in the order of the whole."""
    losses: dict[int, tuple[float, int]] = {}
    answers: dict[str, str] = {}
    pairs: dict[int, tuple[float | None, float | None]] = {}
    for chosen, measured in pieces:
        losses |= dict(
            zip(chosen, zip(measured.losses.loss_sums_B, measured.losses.counts_B, strict=True), strict=True)
        )
        if measured.answers:
            answers |= dict(zip(whole.take(chosen).places, measured.answers, strict=True))
        if measured.pair_scores_B:
            pairs |= dict(zip(chosen, measured.pair_scores_B, strict=True))
    order = sorted(losses)
    first = pieces[0][1]
    return replace(
        first,
        losses=RowLosses(tuple(losses[at][0] for at in order), tuple(losses[at][1] for at in order)),
        answers=tuple(answers[place] for place in whole.places if place in answers),
        pair_scores_B=tuple(pairs[at] for at in order if at in pairs),
        answer_tokens=sum(measured.answer_tokens for _, measured in pieces),
        loss_seconds=sum(measured.loss_seconds for _, measured in pieces),
        answer_seconds=sum(measured.answer_seconds for _, measured in pieces),
        tokens_read=sum(measured.tokens_read for _, measured in pieces),
        tokens_written=sum(measured.tokens_written for _, measured in pieces),
    )
