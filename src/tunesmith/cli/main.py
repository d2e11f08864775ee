"""The command ``tunesmith``: finds the command, and turns every error into lines and an exit code."""

from __future__ import annotations

import difflib
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.failure import FoundError
from tunesmith.cli.lazy import LazyGroup, add_stubs
from tunesmith.cli.terminal import clean, note, out, out_json, paint
from tunesmith.errors import Stopped, TunesmithError, UsageError

# Typer brings its own copy of click in some versions and not in others; this is its usage error in each.
_COMMAND_LINE_ERROR = typer.BadParameter.__mro__[1]

app = typer.Typer(
    cls=LazyGroup,
    name="tunesmith",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
add_stubs(app)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Fine-tune language models on your own machine, and prove what it did."""
    if show_version:
        out(f"tunesmith {version('tunesmith')}")
    elif context.invoked_subcommand is None:
        out(context.get_help())


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets a question mark, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    wants_json = "--json" in arguments
    try:
        code = app(arguments, prog_name="tunesmith", standalone_mode=False)
    except TunesmithError as error:
        return _tell(error, wants_json)
    except FoundError as failure:
        return _tell(failure.error, wants_json, failure.document)
    except (typer.Abort, KeyboardInterrupt):
        return _tell(Stopped("interrupted"), wants_json)
    except BrokenPipeError:
        # Whoever read stdout has gone; what is left in the buffer must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, _COMMAND_LINE_ERROR):
            return _tell(_usage_error(error), wants_json)
        return _tell_unexpected(error, wants_json)
    return code if isinstance(code, int) else 0


def _tell(error: TunesmithError, wants_json: bool, found: Mapping[str, Any] | None = None) -> int:
    if wants_json:
        out_json({**(found or {}), "error": error.to_json()})
    first, *rest = [clean(line) for line in error.lines()]
    # Who asked for the stop needs no alarm.
    label = (
        paint("stopped:", "yellow", sys.stderr) if isinstance(error, Stopped) else paint("error:", "red", sys.stderr)
    )
    note(f"{label} {first}")
    for line in rest:
        note(line)
    return error.exit_code


def _usage_error(error: Exception) -> UsageError:
    """The command line library's complaint in our form."""
    format_message = getattr(error, "format_message", None)
    message = str(format_message() if callable(format_message) else error)
    context = getattr(error, "ctx", None)
    hint = f"see `{context.command_path if context is not None else 'tunesmith'} --help`"
    first, found, suggestion = message.rstrip("?. ").partition(" Did you mean ")
    near = _nearest_option(error, context)
    if found or near:
        hint = f"did you mean {suggestion or near}?"
    first = first.rstrip(".")
    return UsageError(first[:1].lower() + first[1:], code="usage.command_line", hint=hint)


def _nearest_option(error: Exception, context: Any) -> str | None:
    """The option of the command that was most likely meant by one that it does not have."""
    wanted = getattr(error, "option_name", None)
    if wanted is None or context is None:
        return None
    known = [option for parameter in context.command.get_params(context) for option in parameter.opts]
    near = difflib.get_close_matches(str(wanted), known, n=1, cutoff=0.7)
    return near[0] if near else None


def _tell_unexpected(error: Exception, wants_json: bool) -> int:
    """One line, and the traceback where it can be found: this is a fault of ours, not of the user's."""
    summary = f"{type(error).__name__}: {clean(str(error))}".splitlines()[0]
    place = _write_traceback(error)
    if wants_json:
        fault = TunesmithError(summary, code="unexpected", place=str(place))
        out_json({"error": {**fault.to_json(), "class": type(error).__name__}})
    note(f"{paint('unexpected error:', 'red', sys.stderr)} {summary}")
    note(f"  hint: this is a fault of Tunesmith; the traceback is in {place}")
    return 1


def _write_traceback(error: Exception) -> Path:
    from platformdirs import user_log_path

    name = f"error-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.txt"
    text = "".join(traceback.format_exception(error))
    folder = user_log_path("tunesmith")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="tunesmith-error-"))
        (folder / name).write_text(text, encoding="utf-8")
    return folder / name
