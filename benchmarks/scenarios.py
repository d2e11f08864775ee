"""Every task by its recipe on real data: base, base with examples in the prompt, and tuned.

    python -m benchmarks.scenarios --data-folder FOLDER [--only NAME ...] [--budget 240s]

Each recipe is one run of `tunesmith train recipes/NAME.yaml`, one after the other, in a folder that is thrown away;
math, verse and fiction learn the bundled samples that their recipes name, `gsm8k` is the recipe of math on harder
problems, preference-orpo and preference-kto are that of preference with the other objectives, and chat, music and
documents are given real data in place of the bundled samples. FOLDER holds the data sets of the tests
(TUNESMITH_TEST_DATA). The table is printed as Markdown, for docs/results.md, and kept under benchmarks/results/.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import conditions, host_class, keep
from benchmarks.options import read_options
from benchmarks.techniques import run_train, value_with_range

ROOT = Path(__file__).resolve().parents[1]

# By recipe, or by data where a recipe has more than one: settings, in which a path is relative to the data folder.
SCENARIOS: Mapping[str, tuple[str, ...]] = {
    "classification": (
        "data.train=classification/banking77_train.csv",
        "data.validation=classification/banking77_test.csv",
    ),
    "ner": ("data.train=ner/snips_slots_train.jsonl", "data.validation=ner/snips_slots_test.jsonl"),
    "translation": ("data.train=translation/tatoeba_en_de.jsonl",),
    "qa": ("data.train=qa/xquad_en.jsonl",),
    "chat": ("data.train=chat/sgd_dialogues.jsonl", "data.validation=0.1"),
    "music": ("data.train=music/irish_abc.jsonl", "data.validation=0.1", "data.columns={text: abc}"),
    "verse": (),
    "fiction": (),
    "documents": ("data.train=domain_legal/site_policies.jsonl", "data.validation=0.35"),
    "preference": ("data.train=preference/instructions_chosen_rejected.jsonl",),
    "preference-orpo": ("data.train=preference/instructions_chosen_rejected.jsonl", "objective=orpo"),
    "preference-kto": ("data.train=preference/instructions_chosen_rejected.jsonl", "objective=kto"),
    "function-calling": ("data.train=function_calling/bfcl_simple.jsonl",),
    "text-to-sql": ("data.train=text_to_sql/wikisql_train.jsonl", "data.validation=text_to_sql/wikisql_valid.jsonl"),
    "math": (),
    "gsm8k": ("data.train=math/gsm8k_train.jsonl", "data.validation=math/gsm8k_test.jsonl"),
    "classification-head": (
        "data.train=classification/banking77_train.csv",
        "data.validation=classification/banking77_test.csv",
    ),
    "ner-head": (
        "data.train=ner/snips_slots_train.jsonl",
        "data.validation=ner/snips_slots_test.jsonl",
        "data.on_bad_rows=skip",
    ),
    "qa-head": ("data.train=qa/xquad_en.jsonl",),
}


_RECIPES = {"gsm8k": "math", "preference-orpo": "preference", "preference-kto": "preference"}
_SYSTEMS = ("base", "few_shot", "tuned")
HEADINGS = (
    "recipe",
    "rows",
    "steps",
    "measure",
    "base",
    "examples in the prompt",
    "tuned",
    "difference to base",
    "difference to examples",
)


def main() -> None:
    """Run, print and keep."""
    options = read_options("Every task by its recipe, each in a run of minutes.", SCENARIOS, "240s")
    before = conditions()
    measured: dict[str, Any] = {}
    print(f"| {' | '.join(HEADINGS)} |\n{'|---' * len(HEADINGS)}|")
    for name in options.only:
        settings = [*(_located(one, options.data_folder) for one in SCENARIOS[name]), *options.set]
        measured[name] = run_train(
            [str(ROOT / "recipes" / f"{_RECIPES.get(name, name)}.yaml"), *settings], options.budget
        )
        print("\n".join(table_rows(name, measured[name])), flush=True)
    if not options.no_keep:
        result = {"budget": options.budget, "measured": measured, "conditions": before, "host_class": host_class()}
        print(f"kept in {keep('scenarios', result).name}")


def _located(setting: str, data_folder: Path) -> str:
    key, _, value = setting.partition("=")
    return f"{key}={data_folder / value}" if "/" in value else setting


def table_rows(name: str, found: Mapping[str, Any]) -> list[str]:
    """One run as lines of the table, whole Markdown: the measure that decides, then every other one."""
    if "error" in found:
        # As many cells as there are headings; a bar in a message would begin another one.
        text = " ".join(found["error"]).replace("|", "/")
        return [f"| {name} | failed: {text} {'| ' * (len(HEADINGS) - 2)}|"]
    decides = found["metric"]
    measures = {decides: found["values"]}
    for other in dict.fromkeys(other for system in found["others"].values() for other in system):
        measures[other] = {system: values.get(other) for system, values in found["others"].items()}
    measures |= {"loss": found["losses"], "perplexity": found["perplexities"]}
    differences = [difference(found[against]) for against in ("verdict", "against_examples")]
    lines = []
    for measure, values in measures.items():
        if not any(values.values()):
            continue
        cells = [value_with_range(values.get(system)) for system in _SYSTEMS]
        first = [name, str(found["rows"]), str(found["steps"])] if measure == decides else [""] * 3
        ends = differences if measure == decides else [""] * 2
        lines.append(f"| {' | '.join([*first, measure, *cells, *ends])} |")
    return lines


def difference(verdict: Mapping[str, Any] | None) -> str:
    """A paired comparison with its 95 % interval; empty where there was nothing to compare with."""
    if verdict is None:
        return ""
    decided = "" if verdict["decided"] else ", undecided"
    return f"{verdict['difference']:+.3f} ({verdict['low']:+.3f} to {verdict['high']:+.3f}{decided})"


if __name__ == "__main__":
    main()
