"""What more data brings: the same training on a quarter and on half of the rows, measured on the same held-out rows."""

from __future__ import annotations

from typing import Any

from tunesmith.data.subset import Subset
from tunesmith.engine.checkpoint import Checkpoints
from tunesmith.engine.train import train
from tunesmith.evaluation.metrics import measure, pair_rows, summarise
from tunesmith.evaluation.metrics.pairs import can_be_compared
from tunesmith.evaluation.systems import Measured, measure_system
from tunesmith.formats.read import choose_rows
from tunesmith.objectives.table import make_objective
from tunesmith.pipeline.measure import Bench, ask_as_is
from tunesmith.pipeline.run import Run, load_base, prepare_technique, require_whole, train_settings
from tunesmith.runs.atomic import read_json, write_json
from tunesmith.runs.events import open_events
from tunesmith.strategies.table import make_strategy
from tunesmith.techniques.table import make_technique

FRACTIONS = (0.25, 0.5)


def measure_learning_curve(run: Run, bench: Bench, systems: list[Measured]) -> list[dict[str, Any]]:
    """The points of the curve, the whole set last. A point of an earlier attempt is not measured again."""
    points = [_point(run, bench, fraction) for fraction in FRACTIONS]
    tuned = systems[-1]
    points.append({"fraction": 1.0, "rows": len(run.prepared.train.items), **_values(bench, tuned)})
    return points


def _point(run: Run, bench: Bench, fraction: float) -> dict[str, Any]:
    place = run.folder.path / "learning_curve" / f"{fraction:g}"
    kept = place / "point.json"
    if kept.exists():
        point: dict[str, Any] = read_json(kept)
        return point
    place.mkdir(parents=True, exist_ok=True)
    items = run.prepared.train.items
    count = max(1, round(fraction * len(items)))
    rows = Subset(items, choose_rows(len(items), count, run.resolved.seed))
    run.teller.state("evaluating", f"learning curve: training on {count:,} rows")
    technique = make_technique(run.resolved.technique)
    model = prepare_technique(run, load_base(run), rows)
    steps, settings = train_settings(run, rows, deadline_seconds=None)
    result = train(
        model,
        technique=technique,
        objective=make_objective(run.resolved.objective),
        strategy=make_strategy("single", run.prepared.host.device),
        rows=rows,
        steps=steps,
        settings=settings,
        checkpoints=Checkpoints(place / "checkpoints", 1),
        events=open_events(place / "events.jsonl"),
        read_wish=run.read_wish,
    )
    require_whole(run, result)
    asked = ask_as_is(bench)
    measured = measure_system(f"{fraction:g}", f"{fraction:.0%} of the rows", model, asked, bench.ruler)
    point = {"fraction": fraction, "rows": count, **_values(bench, measured)}
    write_json(kept, point)
    return point


def _values(bench: Bench, measured: Measured) -> dict[str, Any]:
    values: dict[str, Any] = {"loss": measured.losses.mean}
    if measured.answers and bench.resolved.metrics:
        name = bench.resolved.metrics[0]
        rows = measure(name, measured.answers, bench.held_out.references, bench.prepared.task.labels)
        values["metric"] = summarise(name, rows, bench.resolved.seed)["value"]
    if can_be_compared(measured.pair_scores_B) and bench.resolved.metrics:
        name = bench.resolved.metrics[0]
        values["metric"] = summarise(name, pair_rows(name, measured.pair_scores_B), bench.resolved.seed)["value"]
    return values
