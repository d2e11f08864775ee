"""The stage that draws a matrix; it loads no model."""

from __future__ import annotations

from pathlib import Path

from tunesmith.evaluation.report.matrix_picture import write_matrix_pictures
from tunesmith.matrix.cell import read_matrix
from tunesmith.matrix.plan import load_layout
from tunesmith.runs.events import EventWriter


def run_matrix_pictures(folder: Path, events: EventWriter) -> None:
    """Draw the matrix that ``matrix.json`` of a folder holds.

    Raises:
        DataError: It is none, or nothing has been measured.
        OutputError: The folder cannot be written or the disk is full.
    """
    write_matrix_pictures(load_layout(), read_matrix(folder / "matrix.json"), folder)
    events.emit("artifact", kind="matrix", path="matrix.png")
    events.emit("status", None, state="finished")
