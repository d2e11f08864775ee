"""A matrix as a picture: every line that has numbers is on it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from matrix_cases import GIB, failed, gain, matrix_of, ran, shared

from tunesmith.errors import DataError
from tunesmith.evaluation.report.matrix_picture import matrix_picture, write_matrix_pictures
from tunesmith.matrix.cell import Gain
from tunesmith.matrix.plan import load_layout

LAYOUT = load_layout()
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    matrix = matrix_of(
        ran("routing", "full", gain=gain(0.3)),
        ran("routing", "full", seed=1, gain=gain(0.2)),
        ran("routing", "lora", gain=Gain(value=0.0, low=0.0, high=0.0), peak_memory_bytes=3 * GIB),
        ran("routing", "dora", gain=None),
        ran("tunes", "lora", gain=gain(-0.2), metric="final_number"),
        failed("tunes", "full", "no rows"),
        failed("problems", "full", "no rows"),
        shared("ddp", 4.25),
        shared("zero", 1.75),
    )
    write_matrix_pictures(LAYOUT, matrix, folder)
    return folder


def test_both_files_are_pictures(drawn) -> None:
    assert sorted(path.name for path in drawn.iterdir()) == ["matrix.png", "matrix.svg"]
    png = (drawn / "matrix.png").read_bytes()
    assert png.startswith(SIGNATURE)
    assert len(png) > 10_000
    width, height = (int.from_bytes(png[start : start + 4]) for start in (16, 20))
    assert width == 1430
    assert height > 400


def test_the_drawing_names_every_line_and_number(drawn) -> None:
    svg = (drawn / "matrix.svg").read_text()
    ElementTree.fromstring(svg)
    for shown in (
        "Customer messages to queue and urgency: gain in accuracy",
        "Tunes in ABC notation: gain in final number",
        "full tuning",
        "LoRA",
        "DoRA",
        "data parallelism",
        "ZeRO-3",
        "3.00",
        "4.25",
        "1.75",
        "Memory of a process (GiB)",
    ):
        assert shown in svg
    assert "Word problems" not in svg, "nothing of it has ended well"
    assert "prefers-color-scheme: dark" in svg


def test_where_nothing_ended_well_there_is_no_picture(tmp_path) -> None:
    with pytest.raises(DataError) as caught:
        write_matrix_pictures(LAYOUT, matrix_of(failed("tunes", "full", "no rows")), tmp_path)
    assert caught.value.code == "data.matrix_empty"
    assert list(tmp_path.iterdir()) == []


def test_a_technique_that_shared_its_work_is_something_to_draw() -> None:
    alone = ran("problems", "lora", kind="alone", peak_memory_bytes=2 * GIB)
    assert "LoRA" in matrix_picture(LAYOUT, matrix_of(alone, shared("lora", 2))).svg


def test_what_sharing_is_held_against_is_drawn_beside_it() -> None:
    """`--technique deepspeed` runs data parallelism as well, to be held against."""
    matrix = matrix_of(shared("ddp", 4.25), shared("zero", 1.75))
    asked = matrix.model_copy(update={"mode": matrix.mode.model_copy(update={"pooled": ("zero",)})})
    svg = matrix_picture(LAYOUT, asked).svg
    assert "ZeRO-3" in svg
    assert "4.25" in svg
