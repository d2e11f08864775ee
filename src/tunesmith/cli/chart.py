"""``tunesmith chart``: before and after of several runs in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson, runs_folder
from tunesmith.cli.terminal import note, out_json, short_path
from tunesmith.errors import OutputError, RunError, UsageError

app = new_app()

FORMS = (".svg", ".png", ".html", ".json")


@app.command()
def chart(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="RUN ...", help="Runs, folders that `tunesmith eval` wrote, or report.json files."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="A new file: .svg, .png, .html or .json.")
    ] = Path("chart.svg"),
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A metric to show; repeatable. The default is all scores.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", metavar="DIR", help="The folder that holds runs, instead of runs/.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Draw before and after of several runs in one picture.

    Reports of the same run become one model: its own and those that `tunesmith eval` wrote.
    """
    from tunesmith.cli.scoring import draw
    from tunesmith.runs.atomic import read_json, write_bytes

    if output.suffix.lower() not in FORMS:
        raise UsageError(
            "the name must end in what the picture is to be",
            code="usage.chart_form",
            place="--output",
            value=output,
            hint=f"one of {', '.join(FORMS)}",
        )
    if output.exists():
        raise OutputError("the file exists already", code="output.exists", place=str(output))
    reports = [report for source in sources for report in _reports(source, runs_folder(runs))]
    with draw(reports, metric or ()) as folder:
        if as_json:
            out_json(read_json(folder / "chart.json"))
        write_bytes(output, (folder / f"chart{output.suffix.lower()}").read_bytes())
    note(f"chart: {short_path(output)}")


def _reports(source: str, runs: Path) -> list[dict[str, Any]]:
    """The reports that a name means: a file, a folder with one, a folder of folders with one each, or a run."""
    from tunesmith.runs.atomic import read_json
    from tunesmith.runs.layout import find_run

    path = Path(source).expanduser()
    if path.is_file():
        return [read_json(path)]
    inner = sorted(path.glob("*/report.json")) if path.is_dir() else []
    if (path / "report.json").is_file():
        found: dict[str, Any] = read_json(path / "report.json")
        # Runs may have been renamed; the folder's name is what the user said.
        return [{**found, "run": path.resolve().name} if (path / "manifest.json").is_file() else found]
    if inner:
        return [read_json(report) for report in inner]
    run = find_run(runs, source)
    if not run.report_json.exists():
        raise RunError(
            "the run has no report yet",
            code="run.no_report",
            place=run.name,
            hint=f"finish it with `tunesmith runs resume {run.name}`",
        )
    return [{**read_json(run.report_json), "run": run.name}]
