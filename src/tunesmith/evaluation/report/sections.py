"""The tables behind the result: classes, cost, data, audit, resolved values, environment, warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.evaluation.report import words
from tunesmith.evaluation.report.layout import Cell, Section, Table
from tunesmith.evaluation.report.results import system_label
from tunesmith.evaluation.report.schema import RankHeld, Report, Side, System
from tunesmith.planner.calibration import LEAST_STEPS


def sections(report: Report) -> list[Section]:
    """Every section that has something to say, in reading order."""
    every = [
        *_detail_sections(report),
        _memorisation(report),
        Section("cost", "Cost", _cost(report)),
        Section("plan", "Plan and truth", _plan(report), _plan_note(report)),
        Section("data", "Data", _data(report), _data_note(report)),
        _audit(report),
        _resolved(report),
        Section("environment", "Environment", _pairs(_environment(report))),
        _warnings(report),
    ]
    return [section for section in every if section.table.rows]


def _memorisation(report: Report) -> Section:
    """What answers share with the training rows, and what the held-out references share with them anyway."""
    labels = {system.name: system_label(system) for system in report.systems}
    found = report.memorisation or {}
    rows = [
        [
            Cell(labels.get(name, "Held-out references")),
            Cell(_percent(one.share)),
            Cell(words.whole(one.longest_words)),
        ]
        for name, one in found.items()
    ]
    length = next((one.ngram_words for one in found.values()), None)
    table = Table(["Texts", f"Stretches of {length} words", "Longest, in words"], rows, frozenset({1, 2}))
    return Section("memorisation", "Word for word as in the training rows", table)


def _detail_sections(report: Report) -> list[Section]:
    """Tables of classes, labels and fields: the tuned system's numbers beside the base's."""
    by_name = {system.name: system for system in report.systems}
    shown = by_name.get("tuned") or (report.systems[-1] if report.systems else None)
    if shown is None:
        return []
    base = by_name.get("base") if shown.name != "base" else None
    label = system_label(shown)
    found = []
    for key, title, name in (("per_class", "Classes", "label"), ("per_label", "Entity labels", "label")):
        table = _class_table(shown, base, key, name)
        found.append(Section(key, title, table, f"Of the {label}, sorted by name.", folded=len(table.rows) > 20))
    found.append(Section("per_field", "Fields", _accuracy_table(shown, base, "per_field", "field")))
    found.append(Section("per_kind", "Kinds of requests", _accuracy_table(shown, base, "per_kind", "kind")))
    found.append(Section("format", "Form of the answers", _format_table(report.systems)))
    found.append(Section("faults", "Faults of the answers", _faults_table(report.systems)))
    found.append(Section("lengths", "Lengths of the answers", _lengths_table(report.systems)))
    note = "The score of all questions in each way of asking; the worst case takes the lowest score of each question."
    found.append(Section("robustness", "Robustness", _robustness_table(shown, base), note))
    return found


def _accuracy_table(shown: System, base: System | None, key: str, name: str) -> Table:
    before = {entry.get(name): entry.get("accuracy") for entry in _entries(base, key)}
    rows = [
        [
            Cell(words.clip(str(entry.get(name)), 160)),
            Cell(_percent(entry.get("accuracy"))),
            Cell(_percent(before.get(entry.get(name)))),
            Cell(words.whole(entry.get("rows"))),
        ]
        for entry in _entries(shown, key)
    ]
    return Table([name.capitalize(), "Right", "Base right", "Rows"], rows, frozenset({1, 2, 3}))


def _faults_table(systems: Sequence[System]) -> Table:
    """Each fault with the rows of every system that have it."""
    counts = [{str(one.get("fault")): one.get("rows") for one in _entries(system, "faults")} for system in systems]
    faults = dict.fromkeys(fault for found in counts for fault in found)
    rows = [
        [Cell(words.clip(fault, 160)), *(Cell(words.whole(found.get(fault, 0))) for found in counts)]
        for fault in faults
    ]
    return Table(["Fault", *map(system_label, systems)], rows, frozenset(range(1, len(systems) + 1)))


def _lengths_table(systems: Sequence[System]) -> Table:
    rows = []
    for system in systems:
        lengths = system.details.get("lengths")
        if isinstance(lengths, dict):
            values = (lengths.get(key) for key in ("answer_words", "reference_words", "ratio"))
            rows.append([Cell(system_label(system)), *(Cell(words.significant(value, 3)) for value in values)])
    return Table(["System", "Words an answer", "Words a reference", "Ratio"], rows, frozenset({1, 2, 3}))


def _entries(system: System | None, key: str) -> list[dict[str, Any]]:
    entries = system.details.get(key) if system else None
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _percent(value: Any) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else words.NOTHING


def _class_table(shown: System, base: System | None, key: str, name: str) -> Table:
    before = {entry.get(name): entry.get("f1") for entry in _entries(base, key)}
    rows = [
        [
            Cell(words.clip(str(entry.get(name)), 160)),
            Cell(_percent(entry.get("precision"))),
            Cell(_percent(entry.get("recall"))),
            Cell(_percent(entry.get("f1"))),
            Cell(_percent(before.get(entry.get(name)))),
            Cell(words.whole(entry.get("rows"))),
        ]
        for entry in _entries(shown, key)
    ]
    return Table(["Label", "Precision", "Recall", "F1", "Base F1", "Rows"], rows, frozenset(range(1, 6)))


def _format_table(systems: Sequence[System]) -> Table:
    rows = []
    for system in systems:
        valid, invalid = system.details.get("format_valid"), system.details.get("invalid")
        signatures = system.details.get("signatures")
        if valid is None and invalid is None and not signatures:
            continue
        note = "; ".join(f"{key}: {text}" for key, text in signatures.items()) if isinstance(signatures, dict) else ""
        count = words.whole(invalid) if isinstance(invalid, int | float) else words.NOTHING
        rows.append([Cell(system_label(system), words.clip(note)), Cell(_percent(valid)), Cell(count)])
    return Table(["System", "Valid answers", "Invalid answers"], rows, frozenset({1, 2}))


def _robustness_table(shown: System, base: System | None) -> Table:
    """What each way of asking a question scores, and how far below the question as written that is."""
    entries, before = (
        _entries(shown, "robustness"),
        {entry.get("asked"): entry for entry in _entries(base, "robustness")},
    )
    names = [name for name in entries[0] if name not in ("asked", "changed")] if entries else []
    headings = ["Asked", "Questions changed"]
    for name in names:
        headings += [words.metric_label(name), "Drop", *(["Base", "Base drop"] if before else [])]
    rows = []
    for entry in entries:
        cells = [Cell(str(entry.get("asked")).replace("_", " ")), Cell(words.whole(entry.get("changed")))]
        for name in names:
            cells += _score_and_drop(entry, entries[0], name)
            if before:
                cells += _score_and_drop(before.get(entry.get("asked"), {}), before.get("as_written", {}), name)
        rows.append(cells)
    return Table(headings, rows, frozenset(range(1, len(headings))))


def _score_and_drop(entry: dict[str, Any], as_written: dict[str, Any], name: str) -> list[Cell]:
    value, plain = entry.get(name), as_written.get(name)
    drop = words.NOTHING
    if entry is not as_written and isinstance(value, int | float) and isinstance(plain, int | float):
        drop = f"{100 * (plain - value):.1f}"
    return [Cell(_percent(value)), Cell(drop)]


def _pairs(pairs: Sequence[tuple[str, str]]) -> Table:
    return Table(["What", "Value"], [[Cell(name), Cell(words.clip(value))] for name, value in pairs])


def _cost(report: Report) -> Table:
    cost = report.cost
    pairs = [
        ("Steps", words.whole(cost.steps)),
        ("Step of the best validation, whose weights are the result", words.whole(cost.best_step)),
        ("Epochs", words.significant(cost.epochs, 3)),
        ("Trained tokens", words.whole(cost.trained_tokens)),
        ("Tokens processed", words.whole(cost.tokens)),
        ("Tokens a second", words.significant(cost.tokens_per_second, 3)),
        ("Peak memory", words.storage(cost.peak_memory_bytes)),
        ("Peak memory of each process", ", ".join(map(words.storage, cost.rank_memory_bytes or []))),
        ("Weights, gradients and moments of each process", ", ".join(map(_held, cost.rank_held or []))),
        ("Trained parameters", _parameters(cost.trained_parameters, cost.total_parameters)),
    ]
    stages = [
        (f"Wall time, {stage.replace('_', ' ')}", words.duration(seconds))
        for stage, seconds in sorted(cost.wall_seconds.items(), key=lambda item: item[0] != "total")
    ]
    total = cost.wall_seconds.get("total")
    answers = [
        (f"Answering, {system_label(system)}", _answering(system, total))
        for system in report.systems
        if system.generation
    ]
    if len(answers) > 1:
        seconds = sum(system.generation.seconds or 0.0 for system in report.systems if system.generation)
        answers.append(("Answering, all systems", f"{words.duration(seconds)}{_of_the_run(seconds, total)}"))
    return _pairs([(name, value) for name, value in [*pairs, *stages, *answers] if value not in ("", words.NOTHING)])


_FORESEEN = {
    "peak_memory_bytes": ("Peak memory", words.storage),
    "steps": ("Steps", words.whole),
    "seconds_a_step": ("A step, with what comes between two", words.duration),
    "training_seconds": ("Training", words.duration),
    "total_seconds": ("The whole run", words.duration),
    "trained_parameters": ("Trained parameters", words.whole),
}


def _plan(report: Report) -> Table:
    """What was predicted before anything ran, beside what it took."""
    rows = []
    for one in report.plan or ():
        name, shown = _FORESEEN.get(one.what, (one.what.replace("_", " "), words.significant))
        measured = one.measured
        if one.what == "trained_parameters" and measured is None:
            measured = report.cost.trained_parameters
        ratio = f"{measured / one.predicted:.2f}" if one.predicted and measured is not None else words.NOTHING
        rows.append([Cell(name), Cell(shown(one.predicted)), Cell(shown(measured)), Cell(ratio)])
    return Table(["What", "Planned", "Measured", "Measured / planned"], rows, frozenset({1, 2, 3}))


def _plan_note(report: Report) -> str:
    """Whether the run was too short for the next plans of its machine to learn from it."""
    steps = next((one.measured for one in report.plan or () if one.what == "steps"), None)
    if steps is None or steps >= LEAST_STEPS:
        return ""
    return f"The next plans of this machine learn nothing from it: it has fewer than {LEAST_STEPS} steps."


def _parameters(trained: int | None, total: int | None) -> str:
    if trained is None or not total:
        return words.whole(trained)
    return f"{trained:,} of {total:,} ({words.share(trained, total)})"


def _held(one: RankHeld) -> str:
    sizes = " + ".join(map(words.storage, (one.weights_bytes, one.gradients_bytes, one.moments_bytes)))
    copies = f" + {words.storage(one.copies_bytes)} of copies" if one.copies_bytes else ""
    return f"{sizes}{copies}{' in the memory of the host' if one.offloaded else ''}"


def _answering(system: System, total_seconds: float | None) -> str:
    generation = system.generation
    if generation is None or generation.tokens is None:
        return ""
    rows = f" for {generation.rows:,} rows" if generation.rows else ""
    taken = f"{words.duration(generation.seconds)}{_of_the_run(generation.seconds, total_seconds)}"
    return f"{generation.tokens:,} tokens{rows} in {taken}"


def _of_the_run(seconds: float | None, total_seconds: float | None) -> str:
    """The share of a run's wall time, where there was a run."""
    if seconds is None or not total_seconds:
        return ""
    return f", {words.share(seconds, total_seconds)} of the run's wall time"


def _data(report: Report) -> Table:
    rows = []
    for name, side in (("Training", report.data.train), ("Validation", report.data.validation)):
        if side is not None and (side.source or side.files or side.rows is not None):
            rows.append(_side(name, side))
            rows.extend(
                [
                    Cell("", tone="quiet"),
                    Cell(words.clip(file.name, 160), f"sha256 {file.sha256}"),
                    *[Cell("")] * 5,
                ]
                for file in side.files
            )
    headings = ["Side", "Source and files", "Rows", "Used", "Skipped", "Tokens", "Trained tokens"]
    return Table(headings, rows, frozenset(range(2, 7)))


def _side(name: str, side: Side) -> list[Cell]:
    counts = (side.rows, side.used_rows, side.skipped_rows, side.tokens, side.trained_tokens)
    return [Cell(name), Cell(words.clip(side.source, 300)), *[Cell(words.whole(count)) for count in counts]]


def _data_note(report: Report) -> str:
    data = report.data
    parts = []
    if data.duplicates is not None:
        parts.append(f"{data.duplicates:,} duplicate rows")
    if data.overlap is not None:
        parts.append(f"{data.overlap:,} validation rows that are also in the training data")
    note = f"{' and '.join(parts)} were found." if parts else ""
    return f"{note} Split: {words.clip(data.split)}.".strip() if data.split else note


def _audit(report: Report) -> Section:
    rows = [
        [
            Cell("passed" if check.ok else "failed", tone="good" if check.ok else "bad"),
            Cell(words.clip(check.name, 160)),
            Cell(words.clip(check.detail)),
        ]
        for check in report.audit
    ]
    return Section("audit", "Audit of the supervision", Table(["Result", "Check", "Detail"], rows))


def _resolved(report: Report) -> Section:
    rows = [
        [Cell(words.clip(key, 160)), Cell(words.clip(_plain(item.value))), Cell(words.clip(item.reason))]
        for key, item in sorted(report.resolved.items())
    ]
    return Section("resolved", "Values and why", Table(["Setting", "Value", "Reason"], rows), folded=len(rows) > 30)


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    return str(value)


def _environment(report: Report) -> list[tuple[str, str]]:
    pairs = [
        (
            name.removesuffix("_bytes").replace("_", " "),
            words.storage(value) if name.endswith("_bytes") and isinstance(value, int | float) else _plain(value),
        )
        for name, value in report.environment.items()
    ]
    model = report.model
    facts = {
        "model source": model.source,
        "model revision": model.revision,
        "model parameters": None if model.parameters is None else f"{model.parameters:,}",
        "model licence": model.licence,
    }
    return [*pairs, *[(name, value) for name, value in facts.items() if value]]


def _warnings(report: Report) -> Section:
    rows = [[Cell(words.clip(warning))] for warning in report.warnings]
    return Section("warnings", "Warnings", Table(["Warning"], rows))
