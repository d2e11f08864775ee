"""A matrix as a page of Markdown: the table of yes and no, the measurements behind it, the rules, the machine."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from tunesmith.matrix.cell import Failure, Gain, Matrix, Outcome, Result, over_seeds
from tunesmith.matrix.plan import ALONE, Kind, Layout, PageRow, Scenario
from tunesmith.matrix.rules import RULES, Mark, decided_text, derive_marks, tells_apart

_EDITION_WORDS = {"given": "the first edition", "later": "the second edition"}
_EDITION_MARKS = {"given": "≠1", "later": "≠2"}
_GIB = 2**30


def matrix_page(layout: Layout, matrix: Matrix, picture: str | None = None) -> str:
    """The whole page; ``picture`` is the path of the picture as the page sees it."""
    marks = derive_marks(layout, matrix)
    parts = [
        "# Which technique for what, measured",
        _opening(matrix),
        *([f"![Gain, memory and time of each technique by scenario]({picture})"] if picture else []),
        "## The table",
        _table_words(layout),
        _marks_table(layout, marks),
        *_contradictions(layout, marks),
        "## Scenario by scenario",
        "A gain is tuned less untuned (turned around where lower is better), with its 95 % interval by paired "
        "bootstrap over the held-out rows. *Best* is the largest gain; *as good* is one that its interval does not "
        "tell apart from it. The target is the held-out loss half way from the untuned model to the lowest that any "
        "column reached; time to it is of training alone, between two validations.",
        _price_words(matrix),
        *_scenario_parts(layout, matrix),
        *_sharing_part(layout, matrix),
        "## The rules",
        "\n".join(f"- **{_row_titles(layout, kind)}**: {text}" for kind, text in RULES.items()),
        *_columns_part(layout),
        "## What it ran on",
        _conditions(matrix),
    ]
    return "\n\n".join(parts) + "\n"


def target_loss(outcomes: Sequence[Outcome]) -> float | None:
    """Half way from the untuned model's held-out loss to the lowest that was reached; None where nothing fell."""
    reached = [loss for one in outcomes for _, loss in one.validation]
    bases = [one.base_loss for one in outcomes if one.base_loss is not None]
    if not reached or not bases or min(reached) >= min(bases):
        return None
    return (min(bases) + min(reached)) / 2


def _opening(matrix: Matrix) -> str:
    mode = matrix.mode
    commands = " and ".join(f"`{command}`" for command in matrix.commands)
    seeds = "one seed" if mode.seeds == 1 else f"up to {mode.seeds} seeds"
    return (
        f"Written by {commands}: {_model_name(matrix)}, {_count(len(mode.scenarios), 'scenario')}, {seeds}, "
        f"{mode.budget} for each run, everything else as `tunesmith train` chooses it. Run it again to check it."
    )


def _table_words(layout: Layout) -> str:
    return (
        f'The same question as a public cookbook\'s page "Fine Tuning Scenarios" asks, whose two editions differ in '
        f"{_differing(layout)} cells and show no measurement. Each answer follows from the numbers below by a rule "
        "that stands below too; ≠1 and ≠2 mark where it contradicts the first or the second edition, "
        "and – where nothing was measured that the rule asks for."
    )


def _differing(layout: Layout) -> int:
    return sum(given != later for row in layout.rows for given, later in zip(row.given, row.later, strict=True))


def _marks_table(layout: Layout, marks: Sequence[Mark]) -> str:
    by_place = {(mark.row, mark.column): mark for mark in marks}
    titles = [layout.column(name).page or "" for name in layout.marks]
    rows = [[row.title, *(_mark_text(by_place[row.id, name]) for name in layout.marks)] for row in layout.rows]
    return _table(["scenario", *titles], rows)


def _mark_text(mark: Mark) -> str:
    answer = "–" if mark.answer == "not measured" else mark.answer
    against = " ".join(_EDITION_MARKS[edition] for edition in mark.contradicted)
    return f"**{answer}** {against}" if against else answer


def _contradictions(layout: Layout, marks: Sequence[Mark]) -> Iterator[str]:
    titles = {row.id: row.title for row in layout.rows}
    lines = [
        f"- {titles[mark.row]}, {layout.column(mark.column).page}: **{mark.answer}** ({mark.number}), against "
        + " and ".join(_EDITION_WORDS[edition] for edition in mark.contradicted)
        for mark in marks
        if mark.contradicted
    ]
    yield "### What is contradicted, and the number that does it"
    yield "\n".join(lines) if lines else "Nothing."
    others = [
        f"- {titles[mark.row]}, {layout.column(mark.column).page}: {mark.answer}"
        + (f" ({mark.number})" if mark.number else "")
        for mark in marks
        if mark.answer in ("undecided", "no") and not mark.contradicted
    ]
    if others:
        yield "What is undecided, or no in both editions too:"
        yield "\n".join(others)


def _scenario_parts(layout: Layout, matrix: Matrix) -> Iterator[str]:
    rows = {row.id: row for row in layout.rows}
    for name in matrix.mode.scenarios:
        scenario = layout.scenario(name)
        yield f"### {scenario.title[:1].upper()}{scenario.title[1:]} (`{scenario.id}`)"
        yield _scenario_words(scenario, rows[scenario.row], matrix)
        yield _scenario_table(layout, matrix, scenario)
        failures = [
            f"- {layout.column(column).title}{_seed_words(matrix, failed)}: {_failure_text(failed.failure)}"
            for column in matrix.mode.columns
            for failed in matrix.failed("quality", column, name)
        ]
        if failures:
            yield "Runs that ended without numbers:"
            yield "\n".join(failures)


def _seed_words(matrix: Matrix, failed: Result) -> str:
    return f", seed {failed.cell.seed}" if matrix.mode.seeds > 1 else ""


def _failure_text(failure: Failure | None) -> str:
    """What went wrong, where, and what to do about it, in one line."""
    if failure is None:
        return "not run yet"
    told = f"{failure.message}: {failure.value}" if failure.value else failure.message
    return " ".join((told + (f" ({failure.hint})" if failure.hint else "")).split())


def _scenario_words(scenario: Scenario, row: PageRow, matrix: Matrix) -> str:
    every = [one for column in matrix.mode.columns for one in matrix.of("quality", column, scenario.id)]
    first = next(iter(every), None)
    measured = "" if first is None else f" Measured by {first.metric} on {first.rows} held-out rows."
    target = target_loss(every)
    aim = "" if target is None else f" Target: a held-out loss of {target:.3f}."
    bundled = scenario.sample is not None and scenario.id not in matrix.own_data
    data = f"the bundled sample {scenario.sample}" if bundled else "data that the command names"
    return f'For the row "{row.title}"; {data}.{measured}{aim}'


def _scenario_table(layout: Layout, matrix: Matrix, scenario: Scenario) -> str:
    outcomes = {name: found for name in matrix.mode.columns if (found := matrix.of("quality", name, scenario.id))}
    gains = {name: over_seeds([one.gain for one in found if one.gain]) for name, found in outcomes.items()}
    known = {name: gain for name, gain in gains.items() if gain is not None}
    best = max(known, key=lambda name: known[name].value, default=None)
    target = target_loss([one for found in outcomes.values() for one in found])
    heads = [
        "column",
        "untuned",
        "tuned",
        "gain",
        "",
        "held-out loss",
        "memory",
        "ms a token",
        "to the target",
        "trained",
    ]
    heads += _price_heads(matrix)
    rows = []
    for name, found in outcomes.items():
        cells = [layout.column(name).title, _mean(found, "base"), _mean(found, "tuned"), _gain(gains[name])]
        cells += [_rank(name, best, known), _mean(found, "tuned_loss"), *_cost_cells(found, target)]
        rows.append([*cells, *_price_cells(matrix, name, scenario)])
    return _table(heads, rows) if rows else "No run of it has ended well."


def _cost_cells(found: Sequence[Outcome], target: float | None) -> list[str]:
    times = [None if target is None else one.seconds_to(target) for one in found]
    reached = [one for one in times if one is not None]
    all_reached = len(reached) == len(times)
    return [
        f"{statistics.fmean(one.process_memory_bytes for one in found) / _GIB:.2f} GiB",
        f"{1000 * statistics.fmean(one.seconds_per_token for one in found):.2f}",
        f"{statistics.fmean(reached):.0f} s" if reached and all_reached else "not reached" if target else "–",
        f"{found[0].trained_parameters:,}",
    ]


def _price_words(matrix: Matrix) -> str:
    """Where the cost comes from, beside the columns that show it; or why there are none."""
    price = matrix.price
    if not price:
        return "No price was given (`--hardware FILE`), so no cost is told."
    of = {"cpu": "the machine", "cuda": "each GPU"}.get(str(price.get("device")), "one device")
    return (
        f"Cost is by a price of {price['price_per_hour']:g} {price['currency']} an hour of {of} "
        f"({price['price_source']}, {price['price_date']}): of a whole run, measuring included, and of a million "
        "tokens of training."
    )


def _price_heads(matrix: Matrix) -> list[str]:
    if not matrix.price:
        return []
    of = f"({matrix.price['currency']}, {matrix.price['price_date']})"
    return [f"cost of the run {of}", f"of a million tokens {of}"]


def _price_cells(matrix: Matrix, column: str, scenario: Scenario) -> list[str]:
    if not matrix.price:
        return []
    costs = matrix.costs(column, scenario.id)
    if not costs:
        return ["–", "–"]
    run, token = (statistics.fmean(values) for values in zip(*((one.run, one.token) for one in costs), strict=True))
    return [f"{run:.4f}", f"{1e6 * token:.4f}"]


def _rank(name: str, best: str | None, known: Mapping[str, Gain]) -> str:
    if name not in known or best is None:
        return ""
    if name == best:
        return "best" if len(known) > 1 and known[name].is_better else ""
    return "" if tells_apart(known[name], known[best]) or not known[best].is_better else "as good"


def _sharing_part(layout: Layout, matrix: Matrix) -> Iterator[str]:
    if not matrix.mode.pooled:
        return
    yield "## Memory of several processes"
    yield (
        f"A few steps of {layout.scenario(layout.pooled_scenario).title} of one size, activations computed again: peak "
        "memory of each process, libraries and all, beside what it is held against."
    )
    rows = []
    for name in matrix.mode.pooled:
        column = layout.column(name)
        shared = matrix.of("pooled", name)
        alone = column.pooled_against == ALONE
        other = matrix.of("alone", name) if alone else matrix.of("pooled", column.pooled_against or "")
        if not shared:
            failed = matrix.failed("pooled", name, layout.pooled_scenario)
            rows.append([column.title, _failure_text(failed[0].failure if failed else None), "", "", ""])
            continue
        row = _sharing_row(column.title, shared[0], other[0] if other else None, alone=alone)
        if not other and column.pooled_against:
            kind: Kind = "alone" if alone else "pooled"
            failed = matrix.failed(kind, name if alone else column.pooled_against, layout.pooled_scenario)
            row[2] = _failure_text(failed[0].failure if failed else None)
        rows.append(row)
    heads = ["column", "each of two processes", "held against", "memory", "time of a token"]
    yield _table(heads, rows)


def _sharing_row(title: str, own: Outcome, other: Outcome | None, *, alone: bool) -> list[str]:
    each = ", ".join(f"{size / _GIB:.2f} GiB" for size in own.rank_memory_bytes or (own.peak_memory_bytes,))
    if other is None:
        return [title, each, "", "", ""]
    held = f"{'one process' if alone else 'data parallelism'}, {other.process_memory_bytes / _GIB:.2f} GiB"
    memory = own.process_memory_bytes / other.process_memory_bytes
    time = own.seconds_per_token / other.seconds_per_token
    return [title, each, held, f"{memory:.2f}", f"{time:.2f}"]


def _columns_part(layout: Layout) -> Iterator[str]:
    told = [f"- **{column.title}**: {column.about}" for column in layout.columns if column.about]
    if told:
        yield "What the columns are:"
        yield "\n".join(told)


def _conditions(matrix: Matrix) -> str:
    lines = [
        "- " + ", ".join(f"{key} {value}" for key, value in found.items())
        for found in _distinct([one.conditions for one in matrix.results if one.conditions])
    ]
    total = sum(one.seconds for one in matrix.results)
    lines.append(f"- {_count(len(matrix.results), 'run')}, {_count(round(total / 60), 'minute')} in all")
    for scenario, files in matrix.data.items():
        lines.append(f"- data of {scenario}: " + ", ".join(f"{side} {hash_[:12]}" for side, hash_ in files.items()))
    if matrix.price:
        lines.append(f"- price: {matrix.price['price_source']}, {matrix.price['price_date']}")
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _model_name(matrix: Matrix) -> str:
    """The model without a folder of this machine."""
    path = PurePath(matrix.model)
    return path.name if path.is_absolute() or matrix.model.startswith((".", "~")) else matrix.model


def _distinct(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Conditions that differ in more than their time."""
    kept: dict[str, Mapping[str, Any]] = {}
    for one in found:
        key = repr({name: value for name, value in one.items() if name != "time"})
        kept.setdefault(key, one)
    return list(kept.values())


def _row_titles(layout: Layout, kind: str) -> str:
    if kind == "quality":
        return "the rows of scenarios"
    return next(row.title for row in layout.rows if row.kind == kind)


def _mean(found: Sequence[Outcome], name: str) -> str:
    values = [getattr(one, name) for one in found]
    known = [value for value in values if value is not None]
    return f"{statistics.fmean(known):.3f}" if known else "–"


def _gain(gain: Gain | None) -> str:
    return "–" if gain is None else decided_text(gain)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([_cell_text(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell_text(text: str) -> str:
    """A text in one cell: messages may hold bars and line ends."""
    return " ".join(text.split()).replace("|", "\\|")
