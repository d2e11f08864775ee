"""``tunesmith export``: write a model for another program, and check it there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson, Data, runs_folder
from tunesmith.cli.terminal import note, out, out_json, short_path
from tunesmith.cli.words import NOTHING, number, storage

app = new_app()


@app.command()
def export(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL ...", help="A run, a folder, a catalog id or a hub id; several runs for onnx-adapter."
        ),
    ],
    *,
    to: Annotated[str, typer.Option("--to", metavar="FORM", help="adapter, merged, gguf, onnx or onnx-adapter.")],
    precision: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="merged: float32, bfloat16, float16. gguf: q8_0, f16, bf16, f32, q5_1, q5_0, q4_1, q4_0. "
            "onnx: fp32, int8, int4. The first is the default.",
        ),
    ] = "auto",
    target: Annotated[
        str | None, typer.Option(metavar="vitisai", help="Hardware that takes a form of its own: AMD's NPUs and FPGAs.")
    ] = None,
    ep: Annotated[str, typer.Option("--ep", metavar="NAME", help="ONNX Runtime's execution provider.")] = "cpu",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The folder to make, instead of one in exports/."),
    ] = None,
    data: Data = None,
    rows: Annotated[int | None, typer.Option(metavar="N", min=1, help="How many held-out rows are compared.")] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", metavar="DIR", help="The folder that holds runs, instead of runs/.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model for another program, load it there, and compare it with PyTorch.

    The folder appears only when the export says what the model says, within the limit of its precision. What differs,
    the size, the speed and the task's metrics are printed and kept in its export.json.
    """
    from tunesmith.cli.progress import open_view, showing
    from tunesmith.jobs.export import ExportRequest
    from tunesmith.jobs.export import export as export_job

    request = ExportRequest(models, to, precision, target, ep, output, data, rows)
    with open_view() as view:
        folder, record = export_job(request, showing(view), runs_folder=runs_folder(runs))
    if as_json:
        out_json({"folder": str(folder), **record})
        return
    print_record(record)
    note(f"exported: {short_path(folder)}")


def print_record(record: Mapping[str, Any]) -> None:
    """What the check found, as a table."""
    from tunesmith.cli.tables import Column, print_table

    check = record["check"]
    speed = check["tokens_per_second"]
    rows: list[list[str]] = [["size", storage(record["size_bytes"]), NOTHING]]
    rows.append(["tokens a second", number(speed["exported"], 3), number(speed["pytorch"], 3)])
    for name, value in check["metrics"]["exported"].items():
        rows.append([name, number(value, 3), number(check["metrics"]["pytorch"].get(name), 3)])
    print_table([Column("measure"), Column("exported", right=True), Column("PyTorch", right=True)], rows)
    for line in _differences(check):
        out(line)
    if record["how"].get("board"):
        out(f"on a board: {record['how']['board']}")


def _differences(check: Mapping[str, Any]) -> list[str]:
    lines = []
    if "divergence_nats" in check:
        nats, greedy = check["divergence_nats"], check["greedy"]
        lines.append(
            f"divergence of next tokens: {nats['mean']:.2g} nats on average, at most {nats['limit_of_mean']:g} "
            f"({check['reason_of_limit']})"
        )
        ties = f", {greedy['ties']} part at a tie" if greedy["ties"] else ""
        lines.append(f"greedy answers: {greedy['same']} of {greedy['prompts']} the same{ties}")
    else:
        scores = check["scores"]
        lines.append(
            f"scores differ by {scores['mean_difference']:.2g} on average and {scores['largest_difference']:.2g} at "
            f"most; limit of the {scores['limited']}: {scores['limit']:.2g} ({check['reason_of_limit']})"
        )
        if "same_labels" in check:
            lines.append(f"labels: {100 * check['same_labels']['share']:.1f} % the same")
        else:
            lines.append(f"embeddings: cosine {check['cosine']['least']:.4f} or more")
    lines.append(f"on {check['rows']} rows: {check['rows_from']}")
    return lines
