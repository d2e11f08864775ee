"""``tunesmith batch``: answer a file of requests."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson
from tunesmith.cli.terminal import note, out, out_json, short_path
from tunesmith.cli.words import count
from tunesmith.errors import DataError
from tunesmith.runs.layout import default_runs_folder

if TYPE_CHECKING:
    from tunesmith.jobs.batch import BatchCounts, BatchFiles

app = new_app()


@app.command()
def batch(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="Requests, one a line, in OpenAI's batch format.")],
    answers: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Where the answers go, one a line.")],
    *,
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            metavar="[NAME=]MODEL",
            help="What answers, whatever the lines name; repeatable, and each line must then name one of them.",
        ),
    ],
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, max=1024, help="Requests under way at once.")] = 32,
    ordered: Annotated[
        bool, typer.Option("--ordered", help="Write answers in the order of the requests, not as they come.")
    ] = False,
    runs: Annotated[
        Path | None, typer.Option("--runs", metavar="DIR", help="The folder that holds runs, instead of runs/.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer a file of requests in OpenAI's batch format.

    A command that was ended goes on where it was. What the server refuses goes to OUT.errors.jsonl, and the command
    then ends with an error.
    """
    from tunesmith.jobs.batch import BatchFiles

    files = BatchFiles(source, answers)
    counts = _answer(files, model, runs if runs is not None else default_runs_folder(), concurrency, ordered=ordered)
    document = {
        "requests": counts.requests,
        "answered_before": counts.before,
        "answered": counts.answered,
        "refused": counts.refused,
        "answers": str(answers),
        "errors": str(files.refusals) if counts.refused else None,
    }
    if counts.refused:
        _refuse(files, counts, document, as_json=as_json)
    if as_json:
        out_json(document)
    else:
        out(f"{count(counts.requests, 'request')} answered, {counts.before} of them before: {short_path(answers)}")


def _answer(files: BatchFiles, models: list[str], runs: Path, concurrency: int, *, ordered: bool) -> BatchCounts:
    """Load the models and answer what is not answered yet; nothing is loaded where all is."""
    from tunesmith.cli.event_lines import Position
    from tunesmith.cli.progress import open_view, showing
    from tunesmith.jobs.batch import BatchCounts, begin_batch, check_batch, count_refused, run_batch, sole_writer
    from tunesmith.jobs.deploying import models_to_serve
    from tunesmith.jobs.inference_process import start_inference

    with ExitStack() as stack:
        view = stack.enter_context(open_view())
        served = models_to_serve(models, runs, showing(view))
        only = served[0].name if len(served) == 1 else None
        total = check_batch(files.source, frozenset(one.name for one in served), only)
        stack.enter_context(sole_writer(files))
        done = begin_batch(files, models)
        if len(done) == total:
            return BatchCounts(total, len(done), 0, count_refused(files))
        note(f"loading {', '.join(one.name for one in served)}", "dim")
        process = stack.enter_context(start_inference(served, rows_at_once=concurrency))
        return run_batch(
            files,
            process.client,
            model=only,
            done=done,
            concurrency=concurrency,
            ordered=ordered,
            on_progress=lambda so_far, whole: view.show(
                Position("answering", so_far, whole, f"{so_far:,}/{whole:,} requests")
            ),
            total=total,
        )


def _refuse(files: BatchFiles, counts: BatchCounts, document: dict[str, Any], *, as_json: bool) -> NoReturn:
    """End with an error for what the server refused."""
    error = DataError(
        f"{count(counts.refused, 'request')} of {counts.requests} were refused",
        code="batch.refused",
        place=short_path(files.refusals),
        hint="each line says why; the answers to the others are written",
    )
    if as_json:
        from tunesmith.cli.failure import FoundError

        raise FoundError(error, document)
    raise error
