"""``tunesmith classify``: put the labels of a tuned head on texts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson, RunsFolder, runs_folder
from tunesmith.cli.terminal import clean, note, out, out_json
from tunesmith.errors import UsageError

if TYPE_CHECKING:
    from tunesmith.jobs.serving import Speaker

app = new_app()

# Lines of a pipe that are asked about at once.
_AT_ONCE = 32


@app.command()
def classify(
    model: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="A run or a model with a head.")],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts, or questions; lines of stdin if none.")
    ] = None,
    *,
    context: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The text in which answers to questions are marked.")
    ] = None,
    output: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Put the labels of a tuned head on texts.

    One line comes out for each text: its label with the probability, its entities, or the answer.
    """
    if not texts and sys.stdin.isatty():
        raise UsageError(
            "there is no text", code="usage.no_text", hint="give texts behind the model, or pipe lines into the command"
        )
    from tunesmith.cli.progress import open_view, showing
    from tunesmith.jobs.serving import serve

    with ExitStack() as stack:
        with open_view() as view:
            note(f"loading {model}", "dim")
            speaker = stack.enter_context(serve(model, runs_folder(output), showing(view), use="classify"))[-1]
        results = _ask(speaker, texts, context)
        if as_json:
            out_json({"model": model, "results": list(results)})
            return
        for result in results:
            out(clean(_line(result)))


def _batches(texts: Sequence[str] | None) -> Iterator[list[str]]:
    lines = iter(texts or (line.rstrip("\r\n") for line in sys.stdin if line.strip()))
    while some := list(islice(lines, _AT_ONCE)):
        yield some


def _ask(speaker: Speaker, texts: Sequence[str] | None, context: str | None) -> Iterator[dict[str, Any]]:
    """What the head says of each text, beside the text."""
    for some in _batches(texts):
        inputs = some if context is None else [{"question": text, "context": context} for text in some]
        for text, found in zip(some, speaker.client.classify(inputs, speaker.model), strict=True):
            yield {"text": text, **{key: value for key, value in found.to_json().items() if key != "index"}}


def _line(result: dict[str, Any]) -> str:
    if "entities" in result:
        found = "; ".join(f"{one['text']}: {one['label']}" for one in result["entities"]) or "no entities"
        return f"{found}\t{result['text']}"
    return f"{result.get('label', result.get('answer'))}\t{result['score']:.3f}\t{result['text']}"
