"""The command line as a whole: quick, honest about errors, one document with --json."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.cli import main
from tunesmith.cli.lazy import COMMANDS, load_command
from tunesmith.errors import CLASSES, DataError, Problem


def test_help_loads_no_command_and_no_heavy_library():
    program = (
        "import sys\n"
        "from tunesmith.cli.main import run\n"
        "assert run(['--help']) == 0\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'httpx', 'pydantic', 'yaml', 'psutil', 'rich'} & set(sys.modules)\n"
        "commands = {name for name in sys.modules if name.startswith(('tunesmith.jobs', 'tunesmith.recipe'))}\n"
        "assert not heavy | commands, heavy | commands\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    for name, (_, line) in COMMANDS.items():
        assert f"  {name}" in answer.stdout
        assert line in answer.stdout, "the line is cut: make it shorter"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_the_line_that_the_list_shows(tunesmith, name):
    answer = tunesmith(name, "--help")
    assert answer.code == 0
    assert answer.out.startswith(f"Usage: tunesmith {name}")
    assert load_command(name).name == name


def test_version_and_no_arguments(tunesmith):
    assert tunesmith("--version").out.startswith("tunesmith 0.")
    assert tunesmith().out.startswith("Usage: tunesmith")
    assert tunesmith("runs").out.startswith("Usage: tunesmith runs")


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["trian"], "no such command 'trian'", "did you mean 'train'?"),
        (["runs", "lits"], "no such command 'lits'", "did you mean 'list'?"),
        (["runs", "list", "--jsn"], "no such option: --jsn", "did you mean --json?"),
        (["check"], "missing argument", "`tunesmith check --help`"),
        (["eval", "tiny"], "missing option", "`tunesmith eval --help`"),
        (["check", "a.jsonl", "--show", "x"], "--show", "`tunesmith check --help`"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error_with_a_remedy(tunesmith, arguments, message, hint):
    answer = tunesmith(*arguments)
    assert answer.code == 2
    first, second = answer.err.splitlines()[:2]
    assert first.startswith("error: ")
    assert message in first
    assert not first.endswith(".")
    assert second.startswith("  hint: ")
    assert hint in second


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_class_ends_with_its_own_code_and_is_told(tunesmith, monkeypatch, kind):
    def fail(*_arguments, **_options):
        raise kind("it went wrong", place="a.jsonl:3", value="x", hint="do better")

    monkeypatch.setattr(main, "app", fail)
    answer = tunesmith("runs", "list")
    assert answer.code == kind.exit_code
    label = "stopped" if kind.exit_code == 130 else "error"
    assert answer.err == f"{label}: a.jsonl:3: it went wrong: x\n  hint: do better\n"
    assert answer.out == ""
    assert tunesmith("runs", "list", "--json").json["error"]["class"] == kind.__name__


def test_all_problems_are_told_and_control_characters_are_not(tunesmith, monkeypatch):
    problems = [Problem("data.a", "first \x1b[2J", place="a:1"), Problem("data.b", "second", hint="repair")]

    def fail(*_arguments, **_options):
        raise DataError("2 rows", problems=problems)

    monkeypatch.setattr(main, "app", fail)
    answer = tunesmith("x")
    assert answer.err.splitlines() == ["error: 2 rows", "  a:1: first �[2J", "  second", "    hint: repair"]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_fault_of_ours_is_one_line_and_a_file(tunesmith, monkeypatch, tmp_path, as_json):
    def fail(*_arguments, **_options):
        raise KeyError("oh\nno")

    monkeypatch.setattr(main, "app", fail)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    answer = tunesmith("x", *(["--json"] if as_json else []))
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert answer.err.splitlines()[0] == "unexpected error: KeyError: 'oh\\nno'"
    written = Path(answer.err.rstrip().rsplit(" ", 1)[1])
    assert "Traceback" in written.read_text()
    assert not as_json or json.loads(answer.out)["error"]["code"] == "unexpected"


def test_an_interrupt_ends_without_a_traceback(tunesmith, monkeypatch):
    def fail(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "app", fail)
    assert (tunesmith("x").code, tunesmith("x").err) == (130, "stopped: interrupted\n")


def test_a_closed_pipe_ends_quietly(make_run, tmp_path):
    for number in range(3):
        make_run(f"run-{number}")
    program = "import sys; from tunesmith.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "runs", "list", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() in (0, 1)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_commands_sub_commands_and_options(shell):
    def complete(words: str) -> str:
        line = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - (not words.endswith(" ")))}
        variables = {"_TUNESMITH_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": words, **line}
        variables["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
        program = "from tunesmith.cli.main import main; main()"
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False).stdout

    assert "quickstart" in complete("tunesmith qu")
    assert "compare" in complete("tunesmith runs com")
    assert "--validation" in complete("tunesmith train --val")
