"""Write the rows of the sample word_problems from scripts/word_problem_frames.yaml, or check that they are current.

python scripts/make_word_problems.py            write train.jsonl and heldout.jsonl
python scripts/make_word_problems.py --check    fail when one of them is not what the frames give
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sample_writing import in_mixed_order, json_lines, write_or_check

ROOT = Path(__file__).resolve().parents[1]
FRAMES = ROOT / "scripts" / "word_problem_frames.yaml"
FOLDER = ROOT / "src" / "tunesmith" / "samples" / "word_problems"
FILLINGS = {"train": 4, "heldout": 2}
SEED = 20
MOST_DRAWS = 20_000
EQUATION = re.compile(r"\{(?P<name>\w+): (?P<left>\w+) (?P<operation>[-+*/]) (?P<right>\w+)\}")


class UnfitError(Exception):
    """These numbers make no problem of this sample."""


@dataclass(frozen=True)
class Frame:
    """A problem with places for names and numbers, and the lines of its answer."""

    text: str
    ranges: Mapping[str, range]
    steps: Sequence[str]


@dataclass(frozen=True)
class Row:
    """A filled frame."""

    question: str
    answer: str
    result: int


def main() -> int:
    """Write or check the two files; returns the exit code."""
    return write_or_check("word_problems", FOLDER, sample_files)


def sample_files() -> dict[str, str]:
    """The text of each file by its name."""
    content = yaml.safe_load(FRAMES.read_text(encoding="utf-8"))
    files = {}
    for part, fillings in FILLINGS.items():
        filled = [list(fill(read_frame(entry), content["names"], fillings)) for entry in content[part]]
        rows = in_mixed_order(filled, SEED)
        files[f"{part}.jsonl"] = json_lines({"question": row.question, "answer": row.answer} for row in rows)
    return files


def read_frame(entry: Mapping[str, Any]) -> Frame:
    """The frame of one entry of the file; ``a: 3 to 9`` becomes the range with both ends."""
    ranges = {}
    for name, bounds in entry["numbers"].items():
        first, last = bounds.split(" to ")
        ranges[name] = range(int(first), int(last) + 1)
    return Frame(entry["text"], ranges, entry["steps"])


def fill(frame: Frame, names: Mapping[str, Sequence[str]], fillings: int) -> Iterator[Row]:
    """Fillings of a frame with different results.

    Each frame has its own sequence of draws, so that a changed frame leaves the rows of the others alone.
    """
    draw = random.Random(f"{SEED} {frame.text}")
    seen: set[int] = set()
    for _ in range(MOST_DRAWS):
        try:
            row = filled_row(frame, draw_values(frame, names, draw))
        except UnfitError:
            continue
        if row.result not in seen:
            seen.add(row.result)
            yield row
        if len(seen) == fillings:
            return
    raise ValueError(f"the ranges do not allow {fillings} different results: {frame.text}")


def draw_values(frame: Frame, names: Mapping[str, Sequence[str]], draw: random.Random) -> dict[str, str | int]:
    """A name and a number for every place; no name and no number comes twice."""
    numbers = {name: draw.choice(bounds) for name, bounds in frame.ranges.items()}
    if len(set(numbers.values())) < len(numbers):
        raise UnfitError
    values: dict[str, str | int] = dict(numbers)
    for kind, choices in names.items():
        values[kind], values[f"{kind}2"] = draw.sample(choices, 2)
    return values


def filled_row(frame: Frame, values: dict[str, str | int]) -> Row:
    """The problem and its answer.

    Raises:
        UnfitError: an equation is none of this sample's.
    """
    known = dict(values)
    lines = []
    result = 0
    for step in frame.steps:
        match = EQUATION.search(step)
        if match is None:
            raise ValueError(f"a step without an equation: {step}")
        left, right = (known[side] if side in known else int(side) for side in match.group("left", "right"))
        assert isinstance(left, int)
        assert isinstance(right, int)
        operation = match["operation"]
        result = calculate(left, operation, right)
        known[match["name"]] = result
        before, after = (step[: match.start()].format_map(known), step[match.end() :].format_map(known))
        lines.append(f"{before}{left} {operation} {right} = {result}{after}")
    return Row(frame.text.format_map(values), "\n".join([*lines, f"#### {result}"]), result)


def calculate(left: int, operation: str, right: int) -> int:
    """The result of an equation of this sample.

    Every number is 2 or more, so that plurals fit. Sums and differences stay below 100; products and quotients are
    those of the multiplication table from 2 to 12.

    Raises:
        UnfitError: the numbers are outside of that.
    """
    table = range(2, 13)
    if operation in "+-":
        result = left + right if operation == "+" else left - right
        fits = 2 <= result < 100 and max(left, right) < 100 and min(left, right) >= 2
    elif operation == "*":
        result = left * right
        fits = left in table and right in table
    else:
        result, rest = divmod(left, right)
        fits = right in table and result in table and rest == 0
    if not fits:
        raise UnfitError
    return result


if __name__ == "__main__":
    sys.exit(main())
