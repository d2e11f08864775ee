"""``python -m tunesmith.service``: the processes of a service, and what its operator does beside them.

``tunesmith up`` and ``tunesmith service`` start this; secrets are in files and in the environment, never in the
command line.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tunesmith.errors import TunesmithError, UsageError
from tunesmith.service.settings import COUNTS_VARIABLE, Settings, read_settings

# What `tunesmith up` was told, as JSON: the environment is this user's alone, a command line is everybody's.
CHOICES_VARIABLE = "TUNESMITH_SERVICE_CHOICES"

Result = TypeVar("Result")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the first argument names; returns the exit code."""
    # Files of a service are nobody else's business.
    os.umask(0o077)
    options = _parser().parse_args(arguments)
    try:
        _COMMANDS[options.command](options)
    except TunesmithError as error:
        if getattr(options, "json", False):
            _print({"error": error.to_json()})
        first, *rest = error.lines()
        print("\n".join([f"error: {first}", *rest]), file=sys.stderr)
        return error.exit_code
    return 0


def _up(options: argparse.Namespace) -> None:
    from tunesmith.service.up import up

    up(options.data_dir, _choices(), as_json=options.json)


def _api(options: argparse.Namespace) -> None:
    settings = read_settings(options.settings)
    settings.counts_folder.mkdir(exist_ok=True)
    os.environ[COUNTS_VARIABLE] = str(settings.counts_folder)
    from tunesmith.service.api import open_listener, run_api

    if options.listener is None:
        listener = open_listener(settings.host, settings.port)
    else:
        listener = socket.socket(fileno=options.listener)
    run_api(settings, name=options.name, listener=listener, parent_pid=options.parent_pid)


def _work(options: argparse.Namespace) -> None:
    from tunesmith.service.process import run_work

    settings = read_settings(options.settings)
    run_work(options.command, settings, name=options.name or options.command, parent_pid=options.parent_pid)


def _migrate(options: argparse.Namespace) -> None:
    from tunesmith.service.operate import migrate

    version = _beside(options.data_dir, migrate)
    _tell(options, {"version": version}, f"the tables have version {version}")


def _key(options: argparse.Namespace) -> None:
    from tunesmith.service.operate import new_operator_key

    key = _beside(options.data_dir, new_operator_key)
    _tell(options, {"key": key}, key)


def _adopt(options: argparse.Namespace) -> None:
    from tunesmith.service.operate import adopt

    _beside(options.data_dir, adopt)
    _tell(options, {"data_folder": str(options.data_dir)}, f"jobs of this database train in {options.data_dir} now")


def _backup(options: argparse.Namespace) -> None:
    from tunesmith.service.operate import back_up

    told = _beside(options.data_dir, lambda settings: back_up(settings, options.file, with_files=options.with_files))
    _tell(options, told, f"written: {options.file}")


def _restore(options: argparse.Namespace) -> None:
    from tunesmith.service.operate import restore

    told = _beside(options.data_dir, lambda settings: restore(settings, options.file), may_be_new=True)
    _tell(options, told, f"restored into {options.data_dir}")


def _beside(data_folder: Path, do: Callable[[Settings], Result], *, may_be_new: bool = False) -> Result:
    """Do something with the settings of a data folder; what was chosen for it holds later too, once it has worked."""
    from tunesmith.service.choices import keep_choices, known_choices, make_private_folder, settings_of

    given = _choices()
    chosen = {**known_choices(data_folder), **given}
    if not chosen and not may_be_new and not data_folder.is_dir():
        raise UsageError(
            "there is no service in this data folder",
            code="service.no_data",
            place=str(data_folder),
            hint="name it with --data-dir, or start one with `tunesmith up`",
        )
    settings = settings_of(data_folder, chosen)
    make_private_folder(data_folder)
    found = do(settings)
    if given:
        keep_choices(data_folder, chosen)
    return found


def _choices() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(os.environ.pop(CHOICES_VARIABLE, "{}"))
    return found


def _tell(options: argparse.Namespace, document: dict[str, Any], words: str) -> None:
    if options.json:
        _print(document)
    else:
        print(words, flush=True)


def _print(document: dict[str, Any]) -> None:
    print(json.dumps(document, indent=2), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tunesmith.service", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("api", "dispatcher", "engines"):
        role = commands.add_parser(name)
        role.add_argument("--settings", type=Path, required=True, help="the settings that `up` has written")
        role.add_argument("--name", default=name, help="what its log is called")
        role.add_argument("--parent-pid", type=int, default=None, help="end when this process ends")
        if name == "api":
            role.add_argument("--listener", type=int, default=None, help="a socket that listens; else one is opened")
    for name in ("up", "migrate", "key", "adopt", "backup", "restore"):
        command = commands.add_parser(name)
        command.add_argument("--data-dir", type=_absolute, required=True, help="where the service's data lies")
        if name in ("backup", "restore"):
            command.add_argument("file", type=_absolute, help="the archive")
        if name == "backup":
            command.add_argument("--with-files", action="store_true", help="also files, models and runs")
        command.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    return parser


def _absolute(text: str) -> Path:
    return Path(text).absolute()


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "up": _up,
    "api": _api,
    "dispatcher": _work,
    "engines": _work,
    "migrate": _migrate,
    "key": _key,
    "adopt": _adopt,
    "backup": _backup,
    "restore": _restore,
}

if __name__ == "__main__":
    sys.exit(main())
