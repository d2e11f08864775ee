"""scripts/setup_environment.sh, with an environment whose pip writes down what it is asked and installs nothing.

CI runs the script for real; what cannot be had there is a package index with a CUDA build, or an old Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "setup_environment.sh"
CUDA_REPORT = '{"install": [{"metadata": {"version": "2.13.0", "requires_dist": ["nvidia-cublas==13.1"]}}]}'
CPU_REPORT = '{"install": [{"metadata": {"version": "2.13.0+cpu", "requires_dist": ["sympy"]}}]}'
STUB = """#!/bin/sh
echo "$*" >> {log}
case "$*" in
  *"pip show"*) exit 1 ;;
  "- https://"*) exit {silence} ;;
  *--dry-run*) cat {report} ;;
esac
"""

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None
    or shutil.which("nvidia-smi") is not None
    or Path("/proc/driver/nvidia/version").exists()
    or sys.platform != "linux",
    reason="the choice of a CPU build is made on Linux without a GPU",
)


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment with stubs for its programs; PyTorch's index answers nobody."""
    make_programs(tmp_path / "venv", silence=1)
    return tmp_path / "venv"


def make_programs(venv: Path, *, silence: int) -> None:
    programs = venv / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    stub = STUB.format(log=venv.parent / "log", report=venv.parent / "report", silence=silence)
    for name in ("python", "tunesmith"):
        (programs / name).write_text(stub, encoding="utf-8")
        (programs / name).chmod(0o755)


def set_up(venv: Path, report: str, **variables: str) -> tuple[str, list[str]]:
    """Run the script; what it said, and what pip was asked."""
    (venv.parent / "report").write_text(report, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "TORCH_INDEX_URL"}
    environment |= {"VENV": str(venv), "PYTHON": sys.executable, **variables}
    result = subprocess.run(
        ["bash", str(SCRIPT)], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr
    log = venv.parent / "log"
    return result.stderr, log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def test_a_cuda_build_gives_way_to_the_cpu_build_of_pytorchs_index(venv):
    make_programs(venv, silence=0)
    said, asked = set_up(venv, CUDA_REPORT)
    assert "taking the CPU build of torch from https://download.pytorch.org/whl/cpu" in said
    (from_index,) = [line for line in asked if "--index-url" in line]
    assert "--no-deps --index-url https://download.pytorch.org/whl/cpu torch==" in from_index
    assert [line for line in asked if "pip" in line][-1].endswith("--no-build-isolation --editable .")
    assert "compileall" in asked[-1]


def test_a_cuda_build_is_announced_before_it_is_installed_where_nothing_else_answers(venv):
    said, asked = set_up(venv, CUDA_REPORT)
    assert "does not answer" in said
    assert "TORCH_INDEX_URL" in said
    assert not any("--index-url" in line for line in asked)
    assert [line for line in asked if "pip" in line][-1].endswith("--no-build-isolation --editable .")
    assert "compileall" in asked[-1]


def test_a_cpu_build_needs_no_words(venv):
    said, asked = set_up(venv, CPU_REPORT)
    assert "torch" not in said
    assert not any(line.startswith("- ") for line in asked), "PyTorch's index is not asked"
    assert all("--constraint constraints.txt" in line for line in asked if "install" in line and "dry" not in line)


def test_the_index_that_is_named_gives_torch_and_nothing_else(venv):
    said, asked = set_up(venv, CUDA_REPORT, TORCH_INDEX_URL="http://127.0.0.1:9/cpu")
    assert "note:" not in said
    (from_index,) = [line for line in asked if "127.0.0.1:9" in line]
    assert "--no-deps" in from_index
    assert from_index.rpartition(" ")[2].startswith("torch==")


def test_an_index_that_is_set_to_nothing_leaves_all_to_pip(venv):
    make_programs(venv, silence=0)
    said, asked = set_up(venv, CUDA_REPORT, TORCH_INDEX_URL="")
    assert "torch" not in said
    assert not any(line.startswith("- ") or "--index-url" in line for line in asked)


def test_a_second_time_nothing_is_asked(venv):
    set_up(venv, CPU_REPORT)
    (venv.parent / "log").unlink()
    assert set_up(venv, CPU_REPORT) == ("", [])


def test_an_old_python_is_refused_in_words(venv, tmp_path):
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)
    environment = {**os.environ, "VENV": str(venv), "PYTHON": str(old)}
    result = subprocess.run(
        ["bash", str(SCRIPT)], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 1
    assert "needs Python 3.11 or later" in result.stderr
