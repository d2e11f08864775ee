"""Plans held against the truth: a grid of short trainings here, and published figures of trainings on GPUs.

    python -m benchmarks.planning --data-folder FOLDER [--only NAME ...] [--budget "4k tokens"]

Each row is a run of `tunesmith train` of two steps with the starter model, whose report has what was planned and what
was measured. The grid varies the technique, the batch (tokens of a step, and of a pack), and the length of rows: short
ones are conversations of GSM8K, long ones legal texts that are cut. What this machine has learned from earlier runs
is put aside, so that the plain formulas are judged. It takes about 20 minutes on two cores. What is printed is Markdown
for docs/results.md. Figures of others are held against plans by :mod:`benchmarks.published`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.foreseen import MEMORY_AIM, MEMORY_UNDER, TIME_AIM, ratio_text, summary_text
from benchmarks.machine import conditions, host_class, keep
from benchmarks.options import read_options
from benchmarks.published import published_errors, published_table, published_trainings
from benchmarks.techniques import run_train
from tunesmith.planner.calibration import calibration_path

_SETTINGS = (
    "model=smollm2-135m-instruct",
    "train.precision=float32",
    "evaluate.rows=4",
    "evaluate.few_shot=0",
)
STEPS = 2
_HEADS = ("technique", "tokens a step", "tokens a pack", "rows", "computed again")
_MEASURES = ("memory planned", "measured", "measured / planned", "a step planned", "measured", "measured / planned")


@dataclass(frozen=True)
class Row:
    """A run of the grid. ``text_tokens`` is where long texts are cut; None: its rows are short conversations."""

    technique: str
    step_tokens: int = 2048
    pack_tokens: int = 1024
    text_tokens: int | None = None
    again: bool = False

    @property
    def name(self) -> str:
        """What ``--only`` calls it."""
        rows = "conversations" if self.text_tokens is None else f"texts of {self.text_tokens}"
        again = ", computed again" if self.again else ""
        return f"{self.technique}, steps of {self.step_tokens}, packs of {self.pack_tokens}, {rows}{again}"

    @property
    def settings(self) -> tuple[str, ...]:
        """What it adds to the settings of all."""
        batch = (f"train.tokens_per_step={self.step_tokens}", f"train.tokens_per_micro_batch={self.pack_tokens}")
        again = f"train.activation_checkpointing={str(self.again).lower()}"
        if self.text_tokens is None:
            return (f"technique={self.technique}", *batch, again, "evaluate.max_new_tokens=4")
        length = ("task=text", f"train.max_length={self.text_tokens}", "data.on_long_rows=truncate")
        return (f"technique={self.technique}", *batch, again, *length)

    @property
    def data(self) -> str:
        """Its rows in the folder of data sets."""
        return "math/gsm8k_train.jsonl" if self.text_tokens is None else "domain_legal/site_policies.jsonl"

    @property
    def budget(self) -> str:
        """So many tokens that it has two steps: steps have a little less or more than they are told."""
        return f"{int((STEPS - 0.25) * self.step_tokens)} tokens"


def _grid() -> Iterator[Row]:
    for technique in ("lora", "dora", "qlora", "full", "freeze"):
        for tokens in (512, 1024, 2048):
            yield Row(technique, pack_tokens=tokens)
    for technique in ("lora", "full"):
        for tokens in (1024, 4096):
            yield Row(technique, step_tokens=tokens)
    for technique in ("lora", "qlora", "full"):
        for tokens in (512, 2048):
            yield Row(technique, pack_tokens=2048, text_tokens=tokens)
    for technique in ("lora", "full"):
        yield Row(technique, again=True)


GRID: Mapping[str, Row] = {row.name: row for row in _grid()}


def main() -> None:
    """Run, print and keep."""
    options = read_options("Plans against the truth.", GRID, None)
    before = conditions()
    measured: dict[str, Any] = {}
    print(table_head(), flush=True)
    with _plain_formulas() as forget:
        for name in options.only:
            forget()
            row = GRID[name]
            told = [f"data.train={options.data_folder / row.data}", *_SETTINGS, *row.settings, *options.set]
            measured[name] = {"row": asdict(row), **run_train(told, options.budget or row.budget)}
            print(table_row(measured[name]), flush=True)
    print(f"\n{errors(measured)}\n")
    published = published_trainings()
    print(f"{published_table(published)}\n\n{published_errors(published)}")
    if not options.no_keep:
        result = {
            "measured": measured,
            "published": [asdict(one) for one in published],
            "conditions": before,
            "host_class": host_class(),
        }
        print(f"\nkept in {keep('planning', result).name}")


@contextmanager
def _plain_formulas() -> Iterator[Any]:
    """What this machine has learned lies aside for the block; the function forgets what was learned meanwhile."""
    path = calibration_path()
    aside = path.with_suffix(".aside")
    if path.exists():
        path.rename(aside)

    def forget() -> None:
        path.unlink(missing_ok=True)

    try:
        yield forget
    finally:
        forget()
        if aside.exists():
            aside.rename(path)


def table_head() -> str:
    """The head of the table of Markdown."""
    heads = [*_HEADS, *_MEASURES]
    return "| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|"


def table_row(found: Mapping[str, Any]) -> str:
    """One run as a line of the table."""
    row = Row(**found["row"])
    rows = "conversations" if row.text_tokens is None else f"texts of {row.text_tokens:,}"
    cells = [row.technique, f"{row.step_tokens:,}", f"{row.pack_tokens:,}", rows, "yes" if row.again else "no"]
    if "error" in found:
        failure = " ".join(" ".join(found["error"]).split())[:300].replace("|", "\\|")
        return "| " + " | ".join([*cells, f"failed: {failure}", *[""] * (len(_MEASURES) - 1)]) + " |"
    memory, step = _foreseen(found, "peak_memory_bytes"), _foreseen(found, "seconds_a_step")
    cells += [f"{memory[0] / 2**30:.2f} GiB", f"{memory[1] / 2**30:.2f}", ratio_text(*memory)]
    cells += [f"{step[0]:.1f} s", f"{step[1]:.1f}", ratio_text(*step)]
    return "| " + " | ".join(cells) + " |"


def errors(measured: Mapping[str, Any]) -> str:
    """Medians of the errors with their aims, and the worst of memory that was planned too small."""
    found = [one for one in measured.values() if "error" not in one]
    memory, seconds = ([_foreseen(one, what) for one in found] for what in ("peak_memory_bytes", "seconds_a_step"))
    failed = len(measured) - len(found)
    told = [
        f"Measured here, {summary_text('memory', memory, MEMORY_AIM, most_under=MEMORY_UNDER)}",
        f"Measured here, {summary_text('time of a step', seconds, TIME_AIM)}",
        *([f"{failed} of {len(measured)} runs failed and are in none of these numbers."] if failed else []),
    ]
    return "\n".join(told)


def _foreseen(found: Mapping[str, Any], what: str) -> tuple[float, float]:
    (one,) = [row for row in found["plan"] if row["what"] == what]
    return float(one["predicted"]), float(one["measured"])


if __name__ == "__main__":
    main()
