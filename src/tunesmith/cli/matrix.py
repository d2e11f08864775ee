"""``tunesmith matrix``: which technique for what, measured on this machine."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson
from tunesmith.cli.terminal import note, out, out_json, short_path
from tunesmith.cli.words import count, duration, storage
from tunesmith.errors import DataError, TunesmithError, UsageError

if TYPE_CHECKING:
    from tunesmith.matrix.cell import Matrix, Result
    from tunesmith.matrix.plan import Cell, Layout, Mode

app = new_app()

DEFAULT_MODEL = "smollm2-135m-instruct"
# Starting a worker, loading the model and writing the report lie outside of a run's budget.
_OUTSIDE_SECONDS = 15.0
_SHARING_SECONDS = 45.0


@app.command()
def matrix(
    *,
    scenario: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A scenario to run; repeatable. --list names them.")
    ] = None,
    technique: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A column to run; repeatable. --list names them.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", "-d", metavar="NAME=DATA", help="A scenario's data; repeatable.")
    ] = None,
    validation: Annotated[
        list[str] | None, typer.Option(metavar="NAME=DATA", help="A scenario's held-out data; repeatable.")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="What is tuned.")] = DEFAULT_MODEL,
    seeds: Annotated[int | None, typer.Option(min=1, metavar="N", help="Trainings of each cell.")] = None,
    budget: Annotated[str | None, typer.Option(metavar="TIME", help="Time of each run, such as 90s or 10m.")] = None,
    hardware: Annotated[
        str | None, typer.Option(metavar="FILE", help="A hardware file whose price turns time into cost.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.md", help="The page; JSON and pictures lie beside it.")
    ] = Path("matrix.md"),
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the runs there; else they go once they are measured.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Every bundled scenario and column, three seeds: hours.")
    ] = False,
    sharing: Annotated[bool, typer.Option(help="Also measure memory of two processes.")] = True,
    list_all: Annotated[bool, typer.Option("--list", help="List scenarios and columns, and stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run scenario by technique on this machine and write what came of it: a page, a JSON file and a picture.

    The quick mode takes under half an hour on two cores: three scenarios by four techniques and full tuning, with
    samples that Tunesmith brings, and memory of two processes. A command that was ended goes on where it was, and
    further scenarios and techniques are added to the same file. Cells that failed say why, and are tried again.
    """
    from tunesmith.matrix.plan import choose, load_layout

    layout = load_layout()
    if list_all:
        if as_json:
            out_json(_lists_json(layout))
        else:
            _print_lists(layout)
        return
    if output.suffix != ".md":
        raise UsageError("the page ends in .md", code="usage.matrix_output", place="--output", value=output)
    wanted = choose(
        layout,
        "full" if full else "quick",
        scenarios=scenario or (),
        columns=technique or (),
        seeds=seeds,
        budget=_checked_budget(budget),
        pooled=sharing,
    )
    given = _sources(data or (), validation or ())
    listed = {"--scenario": scenario, "--technique": technique}
    single = {
        "--model": None if model == DEFAULT_MODEL else _shown(model),
        "--seeds": None if seeds is None else str(seeds),
        "--budget": budget,
        "--hardware": None if hardware is None else _shown(hardware),
    }
    flags = [name for name, is_set in (("--full", full), ("--no-sharing", not sharing)) if is_set]
    said = _command(listed, {"--data": data, "--validation": validation}, single, flags)
    found = _run(wanted, given, _beginning(model, wanted, said, hardware), (output, keep), dry_run=dry_run)
    if as_json:
        out_json(found.model_dump(mode="json"))


def _run(
    wanted: Mode,
    given: Mapping[str, Mapping[str, str]],
    beginning: Matrix,
    places: tuple[Path, Path | None],
    *,
    dry_run: bool,
) -> Matrix:
    """Run what is left to do; ``places`` are those of the page and of the runs that are kept."""
    from tunesmith.jobs.create import findable_model
    from tunesmith.jobs.matrix import (
        cells_to_run,
        hashes_of,
        open_matrix,
        recipes_of,
        run_cells,
        sources_of,
    )
    from tunesmith.matrix.plan import load_layout
    from tunesmith.runs.atomic import telling_output_errors, write_json

    layout, (output, keep) = load_layout(), places
    sources = sources_of(layout, wanted, given)
    path = output.with_suffix(".json")
    known = {"data": hashes_of(sources), "model": _shown(beginning.model), "own_data": tuple(given)}
    found = open_matrix(path, beginning.model_copy(update=known))
    cells = cells_to_run(layout, wanted, found)
    recipes = recipes_of(cells, findable_model(beginning.model), sources)
    _print_cells(layout, wanted, cells)
    if dry_run:
        return found
    with telling_output_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found.model_dump(mode="json"))
    try:
        with _ended_by_signals():
            found = run_cells(
                cells,
                recipes,
                found,
                path,
                keep=keep,
                on_cell=lambda number, cell: note(f"[{number}/{len(cells)}] {_cell_text(layout, cell)}", "bold"),
                on_event=lambda _: None,
                on_result=_print_result,
            )
    except (KeyboardInterrupt, TunesmithError):
        note(f"what was measured so far is in {short_path(path)}; the same command goes on from there")
        raise
    _write_page(layout, found, output)
    return found


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM end a block as Ctrl-C does, and Ctrl-C too where a shell turned it off: a run must not outlive it."""

    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_page(layout: Layout, found: Matrix, output: Path) -> None:
    from tunesmith.jobs.stages import matrix_pictures
    from tunesmith.matrix.page import matrix_page
    from tunesmith.runs.atomic import write_bytes, write_text

    picture = None
    try:
        with matrix_pictures(found.model_dump(mode="json"), lambda _: None) as folder:
            for suffix in (".png", ".svg"):
                write_bytes(output.with_suffix(suffix), (folder / f"matrix{suffix}").read_bytes())
        picture = output.with_suffix(".png").name
    except DataError as error:
        # The page says why there is nothing to draw.
        if error.code != "data.matrix_empty":
            raise
    write_text(output, matrix_page(layout, found, picture))
    note(f"matrix: {short_path(output)}")


def _shown(source: str) -> str:
    """A model or data without the folders of this machine: what lies here is its name, all else as it was said."""
    path = Path(source).expanduser()
    return path.resolve().name if path.exists() else source


def _beginning(model: str, wanted: Mode, said: str, hardware: str | None) -> Matrix:
    from tunesmith.matrix.cell import Matrix as Found
    from tunesmith.planner.hardware import load_hardware

    price = None
    if hardware is not None:
        place = load_hardware(hardware)
        if place.price_per_hour is None:
            hint = "give price_per_hour, currency, price_date and price_source"
            raise UsageError("this hardware has no price", code="usage.no_price", place=hardware, hint=hint)
        keys = ("price_per_hour", "currency", "price_date", "price_source", "device")
        price = {key: place.model_dump(mode="json")[key] for key in keys}
    return Found(model=model, mode=wanted, commands=(said,), price=price)


def _sources(data: Sequence[str], validation: Sequence[str]) -> dict[str, dict[str, str]]:
    """``train`` and ``validation`` by scenario out of NAME=DATA options."""
    found: dict[str, dict[str, str]] = {}
    for option, side, texts in (("--data", "train", data), ("--validation", "validation", validation)):
        for text in texts:
            name, equals, source = text.partition("=")
            if not equals or not name or not source:
                hint = f"for example {option} translation=sentences.jsonl"
                raise UsageError(
                    "data is given as name=file", code="usage.matrix_data", place=option, value=text, hint=hint
                )
            found.setdefault(name, {})[side] = source
    without = [name for name, sides in found.items() if "train" not in sides]
    if without:
        raise UsageError(
            "held-out data without training data",
            code="usage.matrix_data",
            place="--validation",
            value=", ".join(without),
        )
    return found


def _checked_budget(budget: str | None) -> str | None:
    from tunesmith.recipe.budget import parse_budget

    if budget is not None:
        try:
            parse_budget(budget)
        except ValueError as error:
            raise UsageError(str(error), code="usage.budget", place="--budget", value=budget) from error
    return budget


def _command(
    listed: Mapping[str, Sequence[str] | None],
    sources: Mapping[str, Sequence[str] | None],
    single: Mapping[str, str | None],
    flags: Sequence[str],
) -> str:
    """The command for the page, without folders of this machine."""
    parts = ["tunesmith", "matrix", *flags]
    for option, values in listed.items():
        parts += [part for value in values or () for part in (option, value)]
    for option, values in sources.items():
        for value in values or ():
            name, _, source = value.partition("=")
            parts += [option, f"{name}={_shown(source)}"]
    parts += [part for option, value in single.items() if value is not None for part in (option, value)]
    return shlex.join(parts)


def _print_lists(layout: Layout) -> None:
    out("scenarios", "bold")
    rows = {row.id: row.title for row in layout.rows}
    for scenario in layout.scenarios:
        source = f"sample {scenario.sample}" if scenario.sample else f"--data {scenario.id}=FILE"
        out(f"  {scenario.id:<16}{scenario.title} ({source}); for: {rows[scenario.row]}")
    out("techniques", "bold")
    for column in layout.columns:
        out(f"  {column.id:<16}{column.title}" + (f": {column.about}" if column.about else ""))


def _lists_json(layout: Layout) -> dict[str, object]:
    return {
        "scenarios": [
            one.model_dump(mode="json", include={"id", "title", "row", "sample"}) for one in layout.scenarios
        ],
        "techniques": [one.model_dump(mode="json", include={"id", "title", "about"}) for one in layout.columns],
    }


def _print_cells(layout: Layout, wanted: Mode, cells: Sequence[Cell]) -> None:
    from tunesmith.recipe.budget import parse_budget

    seconds = parse_budget(wanted.budget).seconds
    told = f"{count(len(cells), 'run')} to do"
    if seconds is not None:
        each = [seconds + _OUTSIDE_SECONDS if cell.kind == "quality" else _SHARING_SECONDS for cell in cells]
        told += f", about {duration(sum(each))}"
    note(told)
    for cell in cells:
        note(f"  {_cell_text(layout, cell)}", "dim")


def _cell_text(layout: Layout, cell: Cell) -> str:
    title = layout.column(cell.column).title
    if cell.kind == "quality":
        return f"{cell.scenario} with {title}, seed {cell.seed}"
    return f"memory of {'one process' if cell.kind == 'alone' else 'two processes'}: {title}"


def _print_result(result: Result) -> None:
    if result.failure is not None:
        note(f"  no numbers: {result.failure.message}", "yellow")
        return
    outcome = result.outcome
    assert outcome is not None
    parts: list[Any] = [storage(outcome.process_memory_bytes), f"{outcome.tokens_per_second:,.0f} tokens/s"]
    if result.cell.kind == "quality" and outcome.gain is not None:
        gain = outcome.gain
        parts.insert(0, f"{outcome.metric} {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})")
    note("  " + ", ".join(map(str, [*parts, duration(result.seconds)])))
