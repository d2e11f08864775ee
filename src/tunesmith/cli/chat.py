"""``tunesmith chat``: talk to a model or a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson, RunsFolder, runs_folder
from tunesmith.cli.terminal import clean, note, out, out_json, paint
from tunesmith.errors import TunesmithError, UsageError

if TYPE_CHECKING:
    from tunesmith.jobs.serving import Speaker

app = new_app()

_HELP = "/reset forgets the conversation, /quit or Ctrl-D ends, Ctrl-C stops an answer"


@dataclass
class Conversation:
    """What was said with one speaker so far."""

    speaker: Speaker
    system: str | None
    messages: list[dict[str, Any]] = field(default_factory=list)

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []


@app.command()
def chat(
    model: Annotated[
        str,
        typer.Argument(metavar="RUN_OR_MODEL", help="A run, a folder, a registered version, a catalog id or a hub id."),
    ],
    *,
    compare: Annotated[bool, typer.Option("--compare", help="Let the base model answer too, before the run.")] = False,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="A system message.")] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="Ask once, print the answer and end.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(metavar="NUMBER", min=0, max=2, help="0 gives the answers of the report.")
    ] = 0.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N", min=1, help="The longest answer.")] = 512,
    output: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Talk to a model or a run.

    On a terminal a conversation begins. Lines piped into the command are asked one after another, in one
    conversation. --json needs --prompt.
    """
    if as_json and prompt is None:
        raise UsageError("--json needs --prompt", code="usage.json", value="--json")
    from tunesmith.cli.progress import open_view, showing
    from tunesmith.jobs.serving import serve

    options = {"temperature": temperature, "max_tokens": max_tokens}
    with ExitStack() as stack:
        with open_view() as view:
            note(f"loading {model}", "dim")
            speakers = stack.enter_context(
                serve(model, runs_folder(output), showing(view), compare=compare, use="chat")
            )
        conversations = [Conversation(speaker, system) for speaker in speakers]
        for conversation in conversations:
            conversation.reset()
        if prompt is not None:
            _ask_once(conversations, prompt, options, as_json=as_json)
        else:
            _talk(conversations, options)


def _ask_once(conversations: Sequence[Conversation], prompt: str, options: dict[str, Any], *, as_json: bool) -> None:
    if not as_json:
        _answer_all(conversations, prompt, options)
        return
    answers = {
        one.speaker.label: one.speaker.client.chat(
            [*one.messages, {"role": "user", "content": prompt}], one.speaker.model, **options
        )
        for one in conversations
    }
    out_json({"prompt": prompt, "answers": answers})


def _talk(conversations: Sequence[Conversation], options: dict[str, Any]) -> None:
    live = sys.stdin.isatty()
    if live:
        _enable_line_editing()
        note(_HELP, "dim")
    while (line := _next_line(live)) is not None:
        text = line.strip()
        if text in ("/quit", "/exit"):
            return
        if text == "/reset":
            for conversation in conversations:
                conversation.reset()
            note("the conversation begins anew", "dim")
        elif text.startswith("/") and live and " " not in text:
            note(_HELP, "dim")
        elif text:
            try:
                _answer_all(conversations, text, options)
            except TunesmithError as error:
                if not live:
                    raise
                # A message that is too long, say, ends the turn, not the conversation.
                for problem in error.lines():
                    note(clean(problem), "red")


def _next_line(live: bool) -> str | None:
    if not live:
        return sys.stdin.readline() or None
    while True:
        try:
            return input("> ")
        except EOFError:
            note()
            return None
        except KeyboardInterrupt:
            note("\n/quit or Ctrl-D ends", "dim")


def _answer_all(conversations: Sequence[Conversation], text: str, options: dict[str, Any]) -> None:
    for conversation in conversations:
        if len(conversations) > 1:
            out(f"{conversation.speaker.label}:", "bold")
        _answer(conversation, text, options)


def _answer(conversation: Conversation, text: str, options: dict[str, Any]) -> None:
    """Print an answer as it comes; what was said is remembered only as far as it was said."""
    asked = [*conversation.messages, {"role": "user", "content": text}]
    stream = conversation.speaker.client.stream(asked, conversation.speaker.model, **options)
    pieces: list[str] = []
    try:
        for piece in stream:
            pieces.append(piece)
            sys.stdout.write(clean(piece))
            sys.stdout.flush()
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        note(paint(" (stopped)", "dim", sys.stderr))
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()
    out()
    conversation.messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]


def _enable_line_editing() -> None:
    try:
        import readline  # noqa: F401  (importing it is what gives input() its arrow keys)
    except ImportError:
        return
