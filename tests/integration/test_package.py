"""The wheel holds all that the package reads at run time, and works without the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tunesmith.service.web.rendering import VENDOR

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import web_files  # noqa: E402

NOT_SHIPPED = {".pyc"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("tunesmith-*.whl")
    return built


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    source = ROOT / "src"
    wanted = {
        path.relative_to(source).as_posix()
        for path in (source / "tunesmith").rglob("*")
        if path.is_file() and path.suffix not in NOT_SHIPPED
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if name.startswith("tunesmith/")} == wanted
    kinds = {Path(name).suffix for name in wanted}
    assert {".css", ".j2", ".jsonl", ".yaml"} <= kinds
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_wheel_has_the_files_of_others_with_their_licences(wheel):
    """Beside each of them the licence it came with; what pages ask for is among them."""
    names = set(zipfile.ZipFile(wheel).namelist())
    folder = web_files.VENDOR.relative_to(ROOT / "src").as_posix()
    wanted = set(web_files.FILES.values())
    licensed = {name.partition(".")[0] for name in wanted if name.endswith(".LICENSE.txt")}
    assert {name.partition(".")[0] for name in wanted} == licensed
    assert {Path(name).name for name in VENDOR} == {name for name in wanted if not name.endswith(".LICENSE.txt")}
    if not web_files.VENDOR.is_dir():
        pytest.skip("the pages' files are missing: make web")
    assert {f"{folder}/{name}" for name in wanted} <= names


def test_a_build_without_the_files_of_others_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(web_files, "VENDOR", tmp_path)
    assert web_files.check() == 1
    told = capsys.readouterr().err
    assert "make web" in told
    assert all(name in told for name in web_files.FILES.values())
    for name in web_files.FILES.values():
        (tmp_path / name).write_text("")
    assert web_files.check() == 0
    assert capsys.readouterr().err == ""


def test_an_unpacked_wheel_finds_its_data(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = """
import json, tunesmith
from tunesmith.catalog.entries import catalog_entries
from tunesmith.evaluation.report import render_html
from tunesmith.samples import sample_folder, sample_names
report = {"format": 1, "run": "r", "created": "2026-01-01"}
print(json.dumps({
    "at": tunesmith.__file__,
    "models": len(list(catalog_entries())),
    "samples": [str(sample_folder(name) / "heldout.jsonl") for name in sample_names()],
    "page": len(render_html(report)),
}))
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert Path(told["at"]).is_relative_to(tmp_path)
    assert told["models"] > 10
    assert told["samples"]
    assert all(Path(path).is_relative_to(tmp_path) and Path(path).is_file() for path in told["samples"])
    assert told["page"] > 1000
