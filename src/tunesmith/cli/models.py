"""``tunesmith models``: list, show and fetch base models."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson, RunsFolder, runs_folder
from tunesmith.cli.tables import Cell, Column, print_table
from tunesmith.cli.terminal import out, out_json, short_path
from tunesmith.cli.words import scaled

if TYPE_CHECKING:
    from tunesmith.catalog.entries import CatalogEntry

app = new_app("List, show and fetch base models.")

Name = Annotated[
    str, typer.Argument(metavar="MODEL", help="A catalog id, a hub id, a folder, a run or a registered version.")
]


@app.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """List the models of the catalog; any other works by hub id or folder.

    A model that only reads gets a head that puts labels on texts.
    """
    from tunesmith.catalog.cache import prepared_folder
    from tunesmith.catalog.entries import catalog_entries

    entries = catalog_entries()
    if as_json:
        out_json([_data(entry) for entry in entries])
        return
    rows: list[list[str | Cell]] = [
        [
            entry.id,
            scaled(entry.parameters),
            f"{entry.context_length:,}",
            "writes" if entry.kind == "causal" else "reads",
            entry.licence + (", gated" if entry.gated else ""),
            Cell("yes", "green") if prepared_folder(entry.id) is not None else "",
        ]
        for entry in entries
    ]
    columns = [Column("model"), Column("parameters", right=True), Column("context", right=True), Column("use")]
    print_table([*columns, Column("licence", wrap=True), Column("here")], rows)


@app.command()
def show(name: Name, output: RunsFolder = None, *, as_json: AsJson = False) -> None:
    """Show what is known about a model."""
    from tunesmith.catalog.resolve import resolve_model

    reference = resolve_model(name, runs_folder(output))
    if reference.entry is not None:
        data = _data(reference.entry)
    else:
        data = {"name": reference.name, "kind": reference.kind, "path": str(reference.path) if reference.path else None}
    if as_json:
        out_json(data)
        return
    rows = [[key.replace("_", " "), _text(key, value)] for key, value in data.items() if value not in (None, [], ())]
    print_table([Column(""), Column("", wrap=True)], rows)


@app.command()
def pull(name: Name, output: RunsFolder = None, *, as_json: AsJson = False) -> None:
    """Bring a model to this machine; one that is here already is only found."""
    from tunesmith.catalog.resolve import resolve_model
    from tunesmith.cli.progress import open_view, showing
    from tunesmith.jobs.stages import pull as pull_stage

    # A wrong name is told at once, not after a worker has loaded its libraries.
    reference = resolve_model(name, runs_folder(output))
    with open_view() as view:
        found = pull_stage(
            str(reference.path) if reference.kind == "run" else name, showing(view), runs_folder=runs_folder(output)
        )
    if as_json:
        adapter = str(found.adapter) if found.adapter else None
        out_json({"model": name, "path": str(found.folder), "adapter": adapter})
        return
    out(short_path(found.folder))
    if found.adapter is not None:
        out(short_path(found.adapter))


def _data(entry: CatalogEntry) -> dict[str, Any]:
    from tunesmith.catalog.cache import prepared_folder

    folder = prepared_folder(entry.id)
    return {**asdict(entry), "path": str(folder) if folder is not None else None}


def _text(key: str, value: Any) -> str:
    if key == "sources":
        return ", then ".join(" ".join(filter(None, map(source.get, ("kind", "name", "version")))) for source in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)
