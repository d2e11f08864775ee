"""Quality, memory, speed and trained parameters of techniques and objectives, each in a run of minutes on real data.

    python -m benchmarks.techniques --data-folder FOLDER [--only NAME ...] [--budget 150s]

Each row is one run of `tunesmith train` in a process of its own, one after the other, in a folder that is thrown away.
FOLDER holds the data sets of the tests (TUNESMITH_TEST_DATA); the techniques learn the bundled support routing sample.
The table is printed as Markdown and kept under benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import conditions, host_class, keep
from benchmarks.options import read_options
from tunesmith.samples import sample_folder

TUNESMITH = str(Path(sys.executable).with_name("tunesmith"))
STARTER = "smollm2-135m-instruct"
ENCODER = "all-minilm-l6-v2"
ROUTING = sample_folder("support_routing")
ROUTING_DATA = ("--data", str(ROUTING / "train.jsonl"), "--validation", str(ROUTING / "heldout.jsonl"))
BANKING_DATA = ("--data", "classification/banking77_train.csv", "--validation", "classification/banking77_test.csv")


@dataclass(frozen=True)
class Job:
    """One run: the model, the arguments that name its data (relative to the data folder) and its settings."""

    model: str
    data: tuple[str, ...]
    settings: tuple[str, ...]


def _technique(*settings: str) -> Job:
    return Job(STARTER, ROUTING_DATA, settings)


JOBS: Mapping[str, Job] = {
    "full": _technique("technique=full"),
    "freeze": _technique("technique=freeze"),
    "lora": _technique("technique=lora"),
    "qlora": _technique("technique=qlora"),
    "dora": _technique("technique=dora"),
    "ia3": _technique("technique=ia3"),
    "prompt_tuning": _technique("technique=prompt_tuning"),
    "oft": _technique("technique=oft"),
    "text": Job(STARTER, ("--data", "domain_medical/medquad.jsonl"), ("objective=text",)),
    "dpo": Job(STARTER, ("--data", "preference/instructions_chosen_rejected.jsonl"), ("objective=dpo",)),
    "orpo": Job(STARTER, ("--data", "preference/instructions_chosen_rejected.jsonl"), ("objective=orpo",)),
    "kto": Job(STARTER, ("--data", "preference/instructions_chosen_rejected.jsonl"), ("objective=kto",)),
    "sequence_classification": Job(
        ENCODER,
        ("--data", "classification/banking77_train.csv", "--validation", "classification/banking77_test.csv"),
        (),
    ),
    "sequence_classification, causal": Job(
        STARTER,
        ("--data", "classification/banking77_train.csv", "--validation", "classification/banking77_test.csv"),
        ("objective=sequence_classification",),
    ),
    # A few of its rows have words that the tokenizer drops.
    "token_classification": Job(
        ENCODER,
        ("--data", "ner/snips_slots_train.jsonl", "--validation", "ner/snips_slots_test.jsonl"),
        ("task=ner", "data.on_bad_rows=skip"),
    ),
    "question_answering": Job(ENCODER, ("--data", "qa/xquad_en.jsonl"), ("data.on_long_rows=skip",)),
}


def main() -> None:
    """Run, print and keep."""
    options = read_options("Techniques and objectives, each in a run of minutes.", JOBS, "150s")
    before = conditions()
    measured: dict[str, Any] = {}
    print("| run | measure | base | tuned | loss | tokens/s | peak memory | trained parameters |\n" + "|---" * 8 + "|")
    for name in options.only:
        measured[name] = run_job(JOBS[name], options)
        print(table_row(name, measured[name]), flush=True)
    if not options.no_keep:
        result = {"budget": options.budget, "measured": measured, "conditions": before, "host_class": host_class()}
        print(f"kept in {keep('techniques', result).name}")


def run_job(job: Job, options: argparse.Namespace) -> dict[str, Any]:
    """The command and what its report says; or the error that it ended with."""
    data = [
        str(options.data_folder / part) if "/" in part and not Path(part).is_absolute() else part for part in job.data
    ]
    return run_train(["--model", job.model, *data, *job.settings, *options.set], options.budget)


def run_train(told: Sequence[str], budget: str) -> dict[str, Any]:
    """The same of any arguments of `tunesmith train`."""
    told = ["train", *told, f"train.budget={budget}"]
    with tempfile.TemporaryDirectory(prefix="tunesmith-benchmark-") as scratch:
        done = subprocess.run(
            [TUNESMITH, *told, "--name", "benchmark", "--output", scratch, "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        path = Path(scratch) / "benchmark" / "report.json"
        if done.returncode or not path.is_file():
            return {"command": shown(told), "error": done.stderr.strip().splitlines()[-5:]}
        return {"command": shown(told), **summary(json.loads(path.read_text(encoding="utf-8")))}


def shown(told: Sequence[str]) -> str:
    """A command without the folders of this machine."""
    parts = (part.partition("=") for part in told)
    return " ".join(
        f"{key}={Path(value).name}" if mark and "/" in value else _name(key + mark + value)
        for key, mark, value in parts
    )


def _name(part: str) -> str:
    return Path(part).name if Path(part).is_absolute() else part


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a report that this table shows, and its intervals."""
    systems = {system["name"]: system for system in report["systems"]}
    metric = report["primary_metric"]
    return {
        "metric": metric,
        "rows": report["data"]["validation"]["used_rows"],
        "values": {name: system.get("metrics", {}).get(metric) for name, system in systems.items()},
        "others": {
            name: {other: one for other, one in system.get("metrics", {}).items() if other != metric}
            for name, system in systems.items()
        },
        "losses": {name: system.get("loss") for name, system in systems.items()},
        "perplexities": {name: system.get("perplexity") for name, system in systems.items()},
        "verdict": report["verdict"],
        "against_examples": report.get("against_examples"),
        **{
            key: report["cost"][key]
            for key in (
                "steps",
                "tokens",
                "tokens_per_second",
                "wall_seconds",
                "peak_memory_bytes",
                "rank_memory_bytes",
            )
        },
        "trained_parameters": report["cost"]["trained_parameters"],
        "plan": report.get("plan"),
    }


def table_row(name: str, found: Mapping[str, Any]) -> str:
    """One run as a line of the table."""
    if "error" in found:
        return f"| {name} | failed: {' '.join(found['error'])} |"
    before, after = (value_with_range(found["values"].get(system)) for system in ("base", "tuned"))
    losses = " to ".join(value_with_range(found["losses"].get(system)) for system in ("base", "tuned"))
    return (
        f"| {name} | {found['metric']} | {before} | {after} | {losses} | {found['tokens_per_second']:,.0f} | "
        f"{found['peak_memory_bytes'] / 2**30:.1f} GiB | {found['trained_parameters']:,} |"
    )


def value_with_range(measured: Any) -> str:
    """A measure with its 95 % interval."""
    if isinstance(measured, Mapping):
        return f"{measured['value']:.3f} ({measured['low']:.3f} to {measured['high']:.3f})"
    return "-" if measured is None else f"{measured:.3f}"


if __name__ == "__main__":
    main()
