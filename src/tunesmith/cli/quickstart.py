"""``tunesmith quickstart``: the whole way once, on a bundled sample and a small model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson, RunsFolder, runs_folder
from tunesmith.cli.terminal import note, short_path
from tunesmith.runs.layout import RunFolder, free_name

app = new_app()

NAME = "quickstart"
MODEL = "smollm2-135m-instruct"
SAMPLE = "support_routing"
BUDGET = "240s"


@app.command()
def quickstart(
    *,
    again: Annotated[bool, typer.Option("--again", help="Make a new run, also where one is there.")] = False,
    output: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Tune a small model on a bundled sample, and see what it changed.

    Some hundred support messages are sorted into a queue and an urgency. Takes a few minutes on two cores. A run
    that is there already is shown again, or finished where it was stopped.
    """
    from tunesmith.cli.outcome import print_outcome, watch
    from tunesmith.jobs.control import resume
    from tunesmith.jobs.follow import last_seq
    from tunesmith.jobs.states import run_status

    folder = runs_folder(output)
    there = RunFolder((folder / NAME).resolve())
    if again or not there.recipe.exists():
        run = _new_run(folder)
    else:
        run = there
        status = run_status(run)
        if status.state == "finished":
            note(f"the run {NAME} is there already; --again makes a new one", "bold")
        else:
            note(f"going on with the run {NAME}: {status.words}", "bold")
            watch(run, partial(resume, run), after=last_seq(run))
    print_outcome(run, as_json, _next(run))


def quickstart_recipe() -> dict[str, Any]:
    """The quickstart's recipe as plain data."""
    from tunesmith.samples import sample_folder

    sample = sample_folder(SAMPLE)
    return {
        "model": MODEL,
        "data": {"train": str(sample / "train.jsonl"), "validation": str(sample / "heldout.jsonl")},
        "technique": "lora",
        # With set-up and downloads, the whole stays under six minutes on two cores.
        "train": {"budget": BUDGET},
    }


def _new_run(folder: Path) -> RunFolder:
    from tunesmith.cli.outcome import watch
    from tunesmith.jobs.control import start
    from tunesmith.jobs.create import check_inputs, create_run
    from tunesmith.recipe.load import parse_recipe

    recipe = parse_recipe(quickstart_recipe(), "the quickstart's recipe")
    check_inputs(recipe, folder)
    taken = (folder / NAME).exists()
    run = create_run(recipe, folder, free_name(folder, NAME) if taken else NAME)
    note(f"run {run.name} in {short_path(run.path)}: {MODEL} learns to sort support messages", "bold")
    watch(run, partial(start, run), new=True)
    return run


def _next(run: RunFolder) -> list[str]:
    from tunesmith.cli.outcome import quoted

    name = quoted(run)
    return [
        f"tunesmith chat {name} --compare",
        "tunesmith check YOUR_DATA.jsonl",
        f"tunesmith train --model {MODEL} --data YOUR_DATA.jsonl train.budget=10m",
    ]
