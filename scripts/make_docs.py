"""Write the pages that are generated from the code, or check that they are current.

python scripts/make_docs.py            write the command line, the recipe and its schema, paths and settings of the
                                       hosted service, and the matrix that ships
python scripts/make_docs.py --check    fail when one of them is not what the code says
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe_page import recipe_page
from service_pages import openapi_document, settings_page

from tunesmith.errors import CLASSES
from tunesmith.jobs.advice import measured_matrix
from tunesmith.matrix.page import matrix_page
from tunesmith.matrix.plan import load_layout
from tunesmith.recipe.load import parse_recipe, recipe_json_schema

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "guide"
WIDTH = 100
HEAD = """\
# The command line

<!-- Written by scripts/make_docs.py; do not edit by hand. -->

Every command prints what it found on stdout, and progress on stderr. `--json` turns stdout into one JSON document.
`tunesmith --install-completion` adds completion to your shell.
"""


def main() -> int:
    """Write or check the pages; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the generated pages.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args()
    stale = []
    schema = recipe_json_schema()
    shortest = parse_recipe({"model": "MODEL", "data": {"train": "DATA"}}, "the shortest recipe")
    pages = {
        "command-line.md": command_line_page(),
        "recipe.md": recipe_page(schema, shortest.model_dump(mode="json")),
        "service-settings.md": settings_page(),
        "../openapi.json": openapi_document(),
        "recipe.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
    }
    measured = measured_matrix()
    if measured is not None:
        pages["../matrix.md"] = matrix_page(load_layout(), measured, "matrix.png")
    for name, text in pages.items():
        path = (GUIDE / name).resolve()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path.relative_to(ROOT)))
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"{'not current, run `make docs`' if options.check else 'written'}: {', '.join(stale)}")
    return 1 if stale and options.check else 0


def command_line_page() -> str:
    """Every command with its help as the terminal shows it, and the exit codes."""
    parts = [HEAD]
    parts += [f"## {name}\n\n```text\n{text}\n```\n" for name, text in command_helps()]
    parts.append("## Exit codes\n\n| code | class | when |\n|---|---|---|\n| 0 | | all went well |\n")
    rows = [
        f"| {cls.exit_code} | {cls.__name__} | {(cls.__doc__ or '').splitlines()[0].rstrip('.')} |" for cls in CLASSES
    ]
    parts[-1] += (
        "\n".join([*rows, "| 1 | | a fault of Tunesmith; the message names the file with the traceback |"]) + "\n"
    )
    return "\n".join(parts)


def command_helps() -> Iterator[tuple[str, str]]:
    """Name and help of each command, groups before their commands."""
    from typer.main import get_command

    from tunesmith.cli.lazy import COMMANDS, load_command
    from tunesmith.cli.main import app

    root = _context(get_command(app), "tunesmith", None)
    yield "tunesmith", _help(root)
    for name in COMMANDS:
        yield from _helps_below(_context(load_command(name), name, root))


def _helps_below(context: Any) -> Iterator[tuple[str, str]]:
    yield context.command_path, _help(context)
    for name, child in getattr(context.command, "commands", {}).items():
        yield from _helps_below(_context(child, name, context))


def _context(command: Any, name: str, parent: Any) -> Any:
    return command.make_context(name, [], parent=parent, resilient_parsing=True, terminal_width=WIDTH)


def _help(context: Any) -> str:
    return "\n".join(line.rstrip() for line in context.get_help().splitlines())


if __name__ == "__main__":
    sys.exit(main())
