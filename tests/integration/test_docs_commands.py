"""The commands of README and of the guide do what the pages say.

Every block of commands says in a comment before it how it is run (CONTRIBUTING.md). A page is one story: its blocks
run in order in one folder, in which ``recipes`` and ``src`` are those of the repository.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- run: (?P<how>[^>]*?) -->\n+)?```console\n(?P<body>.*?)```", re.DOTALL)
HOW = re.compile(r"(?P<kind>fast|slow)(, exit (?P<code>\d+))?|(?P<no>no), (?P<reason>.+)", re.DOTALL)
FAST_SECONDS = 60
SLOW_SECONDS = 1800


@dataclass(frozen=True)
class Block:
    """Commands that stand together, and how the page wants them run; ``kind`` is fast, slow or no."""

    page: str
    kind: str
    exit_code: int
    steps: tuple[tuple[str, str], ...]


def blocks_of(page: Path) -> list[Block]:
    """All blocks of commands of a page."""
    found = []
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        how = HOW.fullmatch(block["how"] or "")
        assert how, f"{page.name}: this block does not say how it is run:\n{block['body']}"
        steps = [step.partition("\n") for step in re.split(r"(?m)^\$ ", block["body"])[1:]]
        kind = how["kind"] or "no"
        found.append(Block(page.name, kind, int(how["code"] or 0), tuple((line, output) for line, _, output in steps)))
    return found


BLOCKS = {page.name: blocks_of(page) for page in PAGES}


def pages_with(kind: str) -> list[str]:
    return [name for name, blocks in BLOCKS.items() if any(block.kind == kind for block in blocks)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a clone to the commands, with nothing of the repository to spoil."""
    for name in ("recipes", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    # `source .venv/bin/activate` is what a reader does; here the tests' own environment is already active.
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    return tmp_path


def run_page(name: str, kinds: tuple[str, ...], folder: Path, timeout_seconds: float) -> None:
    """Run a page's blocks of these kinds in order."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("TUNESMITH_HOME", "COLUMNS"))}
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"}
    for block in BLOCKS[name]:
        if block.kind not in kinds:
            continue
        for command, expected in block.steps:
            result = subprocess.run(
                ["bash", "-c", command],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout_seconds,
            )
            last = command == block.steps[-1][0]
            told = f"{name}: {command}\n{result.stdout}\n{result.stderr}"
            assert result.returncode == (block.exit_code if last else 0), told
            assert not expected.strip() or matches(result.stdout, expected), told


def matches(output: str, expected: str) -> bool:
    """True if the output is what the page shows, where ``...`` stands for anything."""
    pattern = re.escape(expected.strip()).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, output.strip(), re.DOTALL) is not None


@pytest.mark.parametrize("name", pages_with("fast"))
def test_quick_commands_of_a_page(name, folder):
    run_page(name, ("fast",), folder, FAST_SECONDS)


@pytest.mark.slow
@pytest.mark.starter
@pytest.mark.timeout(3 * SLOW_SECONDS)
@pytest.mark.usefixtures("starter_model")
@pytest.mark.parametrize("name", pages_with("slow"))
def test_all_commands_of_a_page(name, folder):
    run_page(name, ("fast", "slow"), folder, SLOW_SECONDS)


def test_readme_lists_the_targets_of_make():
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    # Under `make test` this make would announce the folders that it enters.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    listed = subprocess.run(["make"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert listed.strip() in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [*PAGES, *sorted(ROOT.glob("C*.md")), *sorted((ROOT / "docs").rglob("*.md"))], ids=str)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_dependency_has_its_reason():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    names = {re.split(r"[>=\[]", line)[0] for line in lines} - {"tunesmith"}
    reasons = (ROOT / "docs" / "decisions" / "0002-dependencies.md").read_text(encoding="utf-8")
    cells = {word.strip() for line in reasons.splitlines() if line.startswith("|") for word in re.split(r"[|,]", line)}
    assert names - cells == set()
