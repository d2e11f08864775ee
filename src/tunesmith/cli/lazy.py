"""Commands that are imported only when they are named, so that ``tunesmith --help`` stays quick."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

# Command, module and the one line that `--help` shows, in the order in which a newcomer needs them.
COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": ("quickstart", "Tune a small model on a bundled sample, before and after"),
    "models": ("models", "List, show and fetch base models"),
    "check": ("check", "Look at data before training, and at what would train"),
    "plan": ("plan", "Say what a training would take, here or elsewhere"),
    "advise": ("advise", "Propose a recipe, with reasons from plan and measurement"),
    "train": ("train", "Tune a model on your data"),
    "submit": ("submit", "Give a training to an executor, here or elsewhere"),
    "jobs": ("jobs", "List, follow, pause, resume and cancel submitted trainings"),
    "join": ("join", "Lend this machine to a training that others share"),
    "runs": ("runs", "List, show, compare, pause, resume and remove runs"),
    "registry": ("registry", "Keep versions of tuned models, with lineage, stages and cards"),
    "eval": ("evaluate", "Measure models or runs on data or by multiple choice"),
    "chart": ("chart", "Draw before and after of several runs in one picture"),
    "matrix": ("matrix", "Measure which technique serves what, on this machine"),
    "chat": ("chat", "Talk to a model or a run"),
    "classify": ("classify", "Put the labels of a tuned head on texts"),
    "export": ("export", "Write a model for another program, and check it there"),
    "serve": ("serve", "Answer requests over HTTP in OpenAI's form"),
    "deployments": ("deployments", "Create, list, show and delete deployments"),
    "up": ("up", "Start the hosted service, for OpenAI's clients"),
    "service": ("service", "Operate the hosted service: tables, keys, backups"),
    "batch": ("batch", "Answer a file of requests in OpenAI's batch format"),
    "recipe": ("recipe", "Show a recipe, or the JSON schema for editors"),
    "doctor": ("doctor", "Look at this machine and the installation"),
}


class LazyGroup(TyperGroup):
    """A group whose commands are stubs until one is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Swap the stub for the command itself."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load_command(name), rest


def load_command(name: str) -> Any:
    """Import a command's module; it has a Typer named ``app``."""
    module = import_module(f"tunesmith.cli.{COMMANDS[name][0]}")
    command = get_command(module.app)
    command.name = name
    return command


def new_app(help: str | None = None) -> typer.Typer:  # noqa: A002
    """A Typer with plain help and our own errors; with ``help`` a group, without it a single command."""
    app = typer.Typer(help=help, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    if help is not None:

        @app.callback(invoke_without_command=True, help=help)
        def show_help(context: typer.Context) -> None:
            if context.invoked_subcommand is None:
                typer.echo(context.get_help())

    return app


def add_stubs(app: typer.Typer) -> None:
    """Give the root app one stub for each command."""

    def stub() -> None:
        raise AssertionError("a stub is never called")

    for name, (_, line) in COMMANDS.items():
        app.command(name, help=line)(stub)
