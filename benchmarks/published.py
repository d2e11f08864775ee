"""Plans held against what others have published of their trainings on GPUs.

    python -m benchmarks.published

Nothing is trained: benchmarks/published.yaml has the figures, each with its source, and every training gets a plan for
its model, rows and hardware. The programs are others, which keep other things; so this says whether plans are of the
right size on hardware that none of our own measurements come from.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.foreseen import MEMORY_AIM, MEMORY_UNDER, TIME_AIM, ratio_text, summary_text
from tunesmith.catalog.entries import find_entry
from tunesmith.planner.hardware import load_hardware
from tunesmith.planner.plan import Plan, make_plan
from tunesmith.planner.shape import ModelShape, shape_of_config, shape_of_entry
from tunesmith.recipe.facts import DataFacts
from tunesmith.recipe.load import apply_overrides, parse_recipe
from tunesmith.recipe.resolve import resolve

PUBLISHED = Path(__file__).with_name("published.yaml")
UNITS = {"GB": 10**9, "GiB": 2**30}
# A score in bfloat16, the same in float32 for the loss, and its gradient.
WHOLE_SCORE_BYTES = 2 + 4 + 4
_HEADS = ("program", "model", "technique", "hardware", "rows at once", "row tokens")
_MEASURES = ("memory planned", "published", "published / planned", "a step planned", "published", "published / planned")


@dataclass(frozen=True)
class Training:
    """A published training with its plan. Memory is bytes, time seconds of a step; None where nothing is published.

    ``whole_scores`` is what scores of all tokens take where the program holds them whole; plans know none of it, since
    here scores are made a few at a time.
    """

    program: str
    url: str
    model: str
    technique: str
    hardware: str
    rows: int
    row_tokens: int
    memory_planned: int
    whole_scores: int
    memory: float | None
    seconds_planned: float
    seconds: float | None


def main() -> None:
    """Print the table and its errors."""
    found = published_trainings()
    print(published_table(found))
    print(f"\n{published_errors(found)}")


def published_trainings() -> list[Training]:
    """All of the file, planned."""
    content = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    return [_training(source, one, content["models"]) for source in content["sources"] for one in source["trainings"]]


def published_table(found: list[Training]) -> str:
    """A table of Markdown, a line for each training."""
    heads = [*_HEADS, *_MEASURES]
    return "\n".join(["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|", *map(_line, found)])


def published_errors(found: list[Training]) -> str:
    """Medians and the worst, of memory and of time; and the median of each program."""
    memory = [(one.memory_planned, one.memory) for one in found if one.memory is not None]
    seconds = [(one.seconds_planned, one.seconds) for one in found if one.seconds is not None]
    with_scores = [(one.memory_planned + one.whole_scores, one.memory) for one in found if one.memory is not None]
    told = [
        summary_text("memory", memory, MEMORY_AIM, most_under=MEMORY_UNDER, truth="published"),
        "where programs hold the scores of all tokens whole, these added to the plan: "
        + summary_text("memory", with_scores, MEMORY_AIM, most_under=MEMORY_UNDER, truth="published"),
        summary_text("time of a step", seconds, TIME_AIM, truth="published"),
        f"published over planned, median by program: {', '.join(_by_program(found))}.",
    ]
    return "\n".join(f"Published trainings, {one}" for one in told)


def _by_program(found: list[Training]) -> Iterator[str]:
    for program in dict.fromkeys(one.program for one in found):
        own = [one for one in found if one.program == program]
        memory = [one.memory / one.memory_planned for one in own if one.memory is not None]
        seconds = [one.seconds / one.seconds_planned for one in own if one.seconds is not None]
        ratios = {"memory": memory, "time": seconds}
        told = [f"{what} {statistics.median(values):.2f}" for what, values in ratios.items() if values]
        yield f"{program} {' and '.join(told)}"


def _training(source: Mapping[str, Any], one: Mapping[str, Any], models: Mapping[str, Any]) -> Training:
    shape = _shape(one["model"], models)
    plan = _plan(source, one, shape)
    # What PyTorch gave out has no part of libraries and driver.
    planned = plan.memory.peak - (plan.memory.framework if source.get("counts") == "tensors" else 0)
    step_tokens = one["rows"] * one["row_tokens"] * one.get("accumulated", 1)
    seconds = one.get("step_seconds")
    if "tokens_per_second" in one:
        seconds = step_tokens / one["tokens_per_second"]
    return Training(
        program=source["title"].partition(",")[0],
        url=source["url"],
        model=one["model"],
        technique=one["technique"],
        hardware=source["hardware"],
        rows=one["rows"],
        row_tokens=one["row_tokens"],
        memory_planned=planned,
        whole_scores=WHOLE_SCORE_BYTES * one["rows"] * one["row_tokens"] * shape.vocabulary_size
        if source.get("scores") == "whole"
        else 0,
        memory=one["memory"] * UNITS[source["unit"]] if "memory" in one else None,
        seconds_planned=plan.time.step_seconds,
        seconds=seconds,
    )


def _shape(name: str, models: Mapping[str, Any]) -> ModelShape:
    if name in models:
        return shape_of_config(models[name], name)
    entry = find_entry(name)
    assert entry is not None, name
    return shape_of_entry(entry)


def _plan(source: Mapping[str, Any], one: Mapping[str, Any], shape: ModelShape) -> Plan:
    hardware, tokens = load_hardware(source["hardware"]), one["row_tokens"]
    at_once = one["rows"] * tokens
    data = DataFacts(
        task="text", shape="text", rows=1000, validation_rows=10, tokens=1000 * tokens, trained_tokens=1000 * tokens,
        longest_row=tokens,
    )  # fmt: skip
    settings = [
        f"technique={one['technique']}",
        "train.precision=bfloat16",
        *source["settings"],
        *one.get("settings", ()),
    ]
    recipe = parse_recipe(apply_overrides({"model": shape.name, "data": {"train": "rows.jsonl"}}, settings))
    resolved = resolve(recipe, data, shape.facts(has_chat_template=True), hardware.host_facts())
    step = {"tokens_per_micro_batch": at_once, "tokens_per_step": at_once * one.get("accumulated", 1)}
    # Answers are written after training, and nobody of these wrote any.
    return make_plan(shape, replace(resolved, **step, evaluation_rows=0), data, hardware)


def _line(one: Training) -> str:
    cells = [one.program, one.model, one.technique, one.hardware, str(one.rows), f"{one.row_tokens:,}"]
    return "| " + " | ".join([*cells, *_measures(one)]) + " |"


def _measures(one: Training) -> Iterator[str]:
    yield f"{one.memory_planned / 2**30:.1f} GiB"
    yield "" if one.memory is None else f"{one.memory / 2**30:.1f}"
    yield ratio_text(one.memory_planned, one.memory)
    yield f"{one.seconds_planned:.2f} s"
    yield "" if one.seconds is None else f"{one.seconds:.2f}"
    yield ratio_text(one.seconds_planned, one.seconds)


if __name__ == "__main__":
    main()
