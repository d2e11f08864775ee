"""A proposed recipe by the command line, for a real model: it is read back, audited and resolved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from matrix_cases import gain, matrix_of, ran
from real_worker import Place, write_labelled

from tunesmith.recipe.load import load_recipe
from tunesmith.runs.atomic import write_json

TUNESMITH = Path(sys.executable).with_name("tunesmith")
DATA = ("--data", "rows.csv")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("advise"))
    write_labelled(place.folder / "rows.csv", 48)
    matrix = matrix_of(
        ran("classification", "dora", gain=gain(0.4, 0.01)), ran("classification", "full", gain=gain(0.1, 0.01))
    )
    write_json(place.folder / "measured.json", matrix.model_dump(mode="json"))
    return place


def tunesmith(place: Place, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TUNESMITH), *words],
        cwd=place.folder,
        env={**os.environ, "TUNESMITH_CACHE": str(place.folder / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def proposed(place: Place) -> subprocess.CompletedProcess[str]:
    done = tunesmith(
        place, "advise", "--model", str(place.model), *DATA, "--matrix", "measured.json", "-o", "recipe.yaml"
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_recipe_is_written_with_its_reasons(place: Place, proposed: subprocess.CompletedProcess[str]) -> None:
    recipe = load_recipe(place.folder / "recipe.yaml")
    assert (recipe.model, recipe.task, recipe.technique.name) == (str(place.model), "classification", "dora")
    text = (place.folder / "recipe.yaml").read_text()
    assert text.startswith("# Proposed by `tunesmith advise`")
    assert "+0.400 (+0.390 to +0.410)" in text
    assert "instead of LoRA" in text
    assert "tunesmith train recipe.yaml" in proposed.stderr
    lines = proposed.stdout.splitlines()
    table = [line.split() for line in lines[lines.index("") + 1 :]]
    assert table[0][0] == "technique"
    assert any(line[0] == "DoRA" and "+0.400" in line for line in table)


def test_what_was_left_out_is_told_beside_a_recipe_on_stdout_too(place: Place) -> None:
    words = ("--model", "smollm2-135m-instruct", *DATA, "--hardware", "small.yaml")
    machine = "id: small\nname: Small\ndevice: cpu\nsource: this test\nmatmul_flops_per_second: {float32: 2e11}\n"
    (place.folder / "small.yaml").write_text(f"{machine}host_memory_bytes: 27e8\n")
    done = tunesmith(place, "advise", *words)
    assert done.returncode == 0, done.stderr
    assert "left out: full tuning does not fit" in done.stderr
    assert "left out" not in done.stdout


@pytest.mark.slow
def test_the_recipe_is_one_that_can_be_trained(place: Place, proposed: subprocess.CompletedProcess[str]) -> None:
    resolved = tunesmith(place, "train", "recipe.yaml", "--dry-run", "--json")
    assert resolved.returncode == 0, resolved.stderr
    assert json.loads(resolved.stdout)["resolved"]["portable"]["technique"]["value"]["name"] == "dora"


def test_a_file_that_is_there_is_not_written_over(place: Place, proposed: subprocess.CompletedProcess[str]) -> None:
    before = (place.folder / "recipe.yaml").read_bytes()
    done = tunesmith(place, "advise", "--model", str(place.model), *DATA, "-o", "recipe.yaml")
    assert done.returncode == 14
    assert "exists already" in done.stderr
    assert "recipe.yaml" in done.stderr
    assert (place.folder / "recipe.yaml").read_bytes() == before


def test_a_wish_that_nobody_knows_is_refused(place: Place) -> None:
    done = tunesmith(place, "advise", "--model", str(place.model), *DATA, "--prefer", "nonsense")
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert "quality, memory, time, cost" in done.stderr
    assert done.stdout == ""


def test_without_a_file_the_recipe_alone_goes_to_stdout(
    place: Place, proposed: subprocess.CompletedProcess[str]
) -> None:
    done = tunesmith(place, "advise", "--model", str(place.model), *DATA, "--prefer", "memory")
    assert done.returncode == 0, done.stderr
    assert "auditing" not in done.stderr, "the rows are counted already"
    (place.folder / "printed.yaml").write_text(done.stdout)
    assert load_recipe(place.folder / "printed.yaml").task == "classification"
    assert "wanted: the least memory" in done.stdout


def test_candidates_come_as_data(place: Place, proposed: subprocess.CompletedProcess[str]) -> None:
    words = ("advise", "--model", str(place.model), *DATA, "--matrix", "measured.json", "--json")
    done = tunesmith(place, *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"recipe", "reasons", "candidates", "refused"}
    first = found["candidates"][0]
    assert (first["title"], first["settings"], first["gain"]["value"]) == ("DoRA", ["technique=dora"], 0.4)
    assert first["way"]["fits"] is True
    assert found["recipe"]["technique"]["name"] == "dora"


def test_measurements_that_are_none_are_refused(place: Place, proposed: subprocess.CompletedProcess[str]) -> None:
    words = ("advise", "--model", str(place.model), *DATA, "--matrix", "rows.csv")
    done = tunesmith(place, *words)
    assert done.returncode == 11
    assert "no matrix" in done.stderr


def test_where_nothing_fits_it_says_what_each_would_take(
    place: Place, proposed: subprocess.CompletedProcess[str]
) -> None:
    words = ("advise", "--model", "llama-3.1-70b-instruct", *DATA, "--hardware", "rtx-4090")
    done = tunesmith(place, *words)
    assert done.returncode == 19
    assert "LoRA does not fit" in done.stderr
