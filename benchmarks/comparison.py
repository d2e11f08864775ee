"""What the steps of a training benchmark say: rates, ratios in several measures, and a table of them.

    python -m benchmarks.comparison FILE ...     the tables of kept results, anew

The first step of each run is a warm-up and is not counted. Sides take rows in orders of their own (a sampler by length
begins with the longest), so a ratio of rows alone says how long rows were as much as how fast a side is. So three
ratios are told: in tokens a second, in rows a second, and, where a side took the very rows that ours took, over those.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Run = Mapping[str, Any]

OURS = "tunesmith"
# How many times as fast ours is, by what `ratios` calls them.
MEASURES = {
    "tokens": "ours faster in tokens/s",
    "as_many_tokens": "over as many tokens",
    "rows": "in rows/s",
    "same_rows": "over the same rows",
}
COLUMNS = (
    "side",
    "counted steps (tokens)",
    "tokens/s",
    "rows/s",
    *MEASURES.values(),
    "peak memory",
    "loss apart by",
    "share of the limit",
)


def main() -> None:
    """Print the tables of kept results."""
    parser = argparse.ArgumentParser(description="The tables of kept results of benchmarks.training.")
    parser.add_argument("files", nargs="+", type=Path)
    for path in parser.parse_args().files:
        print(f"\n# {path.name}")
        for name, found in json.loads(path.read_text(encoding="utf-8"))["measured"].items():
            print_workload(name, found)


def print_workload(name: str, found: Mapping[str, Any]) -> None:
    """A workload's table as Markdown; ``found`` has its description, each side's runs, and speeds of products."""
    print(f"\n{name}: {found['about']}\n", *table(found), sep="\n", flush=True)


def table(found: Mapping[str, Any]) -> list[str]:
    """The lines of a workload's table; a side that failed has its error in place of numbers."""
    ours = found["runs"].get(OURS, [])
    limit = limit_tokens_per_second(found)
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for side, runs in found["runs"].items():
        own = rates(runs)
        if own is None:
            why = " ".join(_errors(runs) or ["no step was counted"])[:300].replace("|", "\\|")
            lines.append(f"| {side} | failed: {why} |" + " |" * (len(COLUMNS) - 2))
            continue
        faster = {} if side == OURS else ratios(ours, runs)
        cells = (
            side,
            f"{own['counted_steps']:.0f} ({own['counted_tokens']:,.0f})",
            f"{own['tokens_per_second']:,.0f}",
            f"{own['rows_per_second']:.2f}",
            *(f"{faster[measure]:.2f}" if measure in faster else "" for measure in MEASURES),
            f"{own['peak_memory_gib']:.1f} GiB",
            "" if side == OURS else loss_difference(ours, runs),
            f"{own['tokens_per_second'] / limit:.0%}" if limit else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def rates(runs: Sequence[Run]) -> dict[str, float] | None:
    """Rates over all counted steps of all rounds, how many those are, and the highest peak.

    None where a round failed or a side has no counted step.
    """
    steps = [step for run in runs for step in _counted(run)]
    if not steps or any("error" in run for run in runs):
        return None
    seconds = sum(step["seconds"] for step in steps)
    tokens = sum(step["tokens"] for step in steps)
    return {
        "tokens_per_second": tokens / seconds,
        "rows_per_second": sum(step["rows"] for step in steps) / seconds,
        "counted_steps": len(steps),
        "counted_tokens": tokens,
        "peak_memory_gib": max(run["peak_memory_bytes"] for run in runs) / 2**30,
    }


def ratios(ours: Sequence[Run], others: Sequence[Run]) -> dict[str, float]:
    """How many times as fast ours is, by each measure that the runs allow; empty where a side has no rates.

    ``tokens`` and ``rows`` compare rates. ``as_many_tokens`` compares the time of each side's first counted tokens, as
    many as both have. ``same_rows`` compares the time of counted steps that had the same rows on both sides.
    """
    own, other = rates(ours), rates(others)
    if own is None or other is None:
        return {}
    found = {
        "tokens": own["tokens_per_second"] / other["tokens_per_second"],
        "rows": own["rows_per_second"] / other["rows_per_second"],
    }
    rounds = [(_counted(one), _counted(two)) for one, two in zip(ours, others, strict=True)]
    if all(one and two for one, two in rounds):
        tokens = [min(sum(step["tokens"] for step in side) for side in both) for both in rounds]
        one, two = (
            sum(_seconds_of(both[at], count) for both, count in zip(rounds, tokens, strict=True)) for at in (0, 1)
        )
        found["as_many_tokens"] = two / one
    same = [pair for one, two in zip(ours, others, strict=True) for pair in list(_same_steps(one, two))[1:]]
    if same:
        found["same_rows"] = sum(two["seconds"] for _, two in same) / sum(one["seconds"] for one, _ in same)
    return found


def loss_difference(ours: Sequence[Run], others: Sequence[Run]) -> str:
    """Mean difference of the losses of the steps that had the same rows on both sides; empty where none had."""
    pairs = [
        abs(one["loss"] - two["loss"])
        for own, other in zip(ours, others, strict=False)
        for one, two in _same_steps(own, other)
    ]
    return f"{sum(pairs) / len(pairs):.3f}" if pairs else ""


def limit_tokens_per_second(found: Mapping[str, Any]) -> float | None:
    """Tokens a second if only matrix products took time, at the speed that they had in the same run."""
    runs = [run for run in found["runs"].get(OURS, []) if "flops_per_token" in run]
    if not runs:
        return None
    fastest = max(products[runs[0]["precision"]] for products in found["products"])
    return fastest / float(runs[0]["flops_per_token"])


def _counted(run: Run) -> list[Mapping[str, Any]]:
    return list(run.get("steps", []))[1:]


def _errors(runs: Sequence[Run]) -> list[str]:
    return [line for run in runs for line in run.get("error", [])]


def _same_steps(one: Run, two: Run) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The steps that both took, the warm-up too; none unless rows and tokens are as many in every one of them.

    Equal numbers in one step may be chance, in all of them they say that both sides take rows in the same order.
    """
    both = list(zip(one.get("steps", []), two.get("steps", []), strict=False))
    if all((a["rows"], a["tokens"]) == (b["rows"], b["tokens"]) for a, b in both):
        yield from both


def _seconds_of(steps: Sequence[Mapping[str, Any]], tokens: float) -> float:
    """Seconds of the first ``tokens`` of some steps; of the step in which they end, their share of it."""
    seconds = 0.0
    for step in steps:
        share = min(1.0, tokens / step["tokens"])
        seconds += share * step["seconds"]
        tokens -= share * step["tokens"]
    return seconds


if __name__ == "__main__":
    main()
