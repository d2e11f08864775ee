"""Run the whole suite, slow tests included, and write what came of it to docs/test-reports/DATE.md.

Other arguments go to pytest; a report of a part of the suite is printed and not written.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import psutil

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "test-reports"
SELECTION = "not gpu and not network"
# As in the Makefile.
IN_PARTS = ("-n", "logical", "--maxprocesses", "4", "--dist", "loadfile")
SLOWEST = 15
VERSIONS = ("torch", "transformers", "peft", "numpy", "pytest")


@dataclass(frozen=True)
class Case:
    """One test: where it is, its seconds, passed, failed or skipped, and why it was skipped."""

    name: str
    part: str
    seconds: float
    outcome: str
    reason: str = ""


def main() -> int:
    """Run, write, and return pytest's exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "results.xml"
        # pytest takes the last -m, so this one replaces the fast suite's.
        command = [sys.executable, "-m", "pytest", *IN_PARTS, "-m", SELECTION, f"--junitxml={results}", *sys.argv[1:]]
        environment = {"TUNESMITH_HYPOTHESIS_PROFILE": "new", **os.environ}
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        cases = read_cases(results)
    page = report(cases, sys.argv[1:])
    if sys.argv[1:]:
        print(page)
    else:
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = FOLDER / f"{datetime.now(UTC):%Y-%m-%d}.md"
        path.write_text(page, encoding="utf-8")
        print(f"report in {path.relative_to(ROOT)}")
    return code


def read_cases(results: Path) -> list[Case]:
    """The tests of a JUnit file."""
    return [_case(element) for element in ElementTree.parse(results).iter("testcase")]


def _case(element: ElementTree.Element) -> Case:
    module = element.get("classname", "")
    parts = module.split(".")
    skipped = element.find("skipped")
    failed = element.find("failure") is not None or element.find("error") is not None
    return Case(
        name=f"{module.replace('.', '/')}::{element.get('name')}",
        part=parts[1] if len(parts) > 2 else "other",
        seconds=float(element.get("time", 0)),
        outcome="failed" if failed else "passed" if skipped is None else "skipped",
        reason="" if skipped is None else str(skipped.get("message", "")),
    )


def report(cases: list[Case], arguments: list[str]) -> str:
    """The page."""
    counts = Counter(case.outcome for case in cases)
    lines = [
        f"# Tests of {datetime.now(UTC):%Y-%m-%d}",
        "",
        "Written by `make test-full`.",
        "",
        "| | |",
        "|---|---|",
        f"| commit | {_git('rev-parse', '--short', 'HEAD')}{' with local changes' if _git('status', '-s') else ''} |",
        f"| selection | {SELECTION}{' ' + ' '.join(arguments) if arguments else ''} |",
        f"| passed, failed, skipped | {counts['passed']}, {counts['failed']}, {counts['skipped']} |",
        f"| seconds | {sum(case.seconds for case in cases):.0f} |",
        f"| machine | {hardware()} |",
        f"| versions | Python {platform.python_version()}, {', '.join(f'{n} {version(n)}' for n in VERSIONS)} |",
        "",
        "| part | tests | seconds |",
        "|---|---|---|",
    ]
    for part in sorted({case.part for case in cases}):
        members = [case for case in cases if case.part == part]
        lines.append(f"| {part} | {len(members)} | {sum(case.seconds for case in members):.0f} |")
    lines += ["", "## Slowest", ""]
    for case in sorted(cases, key=lambda case: -case.seconds)[:SLOWEST]:
        lines.append(f"- {case.seconds:.1f} s `{case.name}`")
    for title, outcome in (("Failed", "failed"), ("Skipped", "skipped")):
        members = [case for case in cases if case.outcome == outcome]
        lines += ["", f"## {title}", "", *(f"- `{case.name}` {case.reason}".rstrip() for case in members)]
        lines += [] if members else ["none"]
    return "\n".join(lines) + "\n"


def hardware() -> str:
    """The machine in a few words, without its name."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, {platform.system()}"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
