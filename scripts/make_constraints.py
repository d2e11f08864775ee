"""Write constraints.txt from the environment that runs this script.

    python scripts/make_constraints.py            write constraints.txt
    python scripts/make_constraints.py --check    fail when the file does not pin this environment

Every package that the package itself, its extras or its build needs gets a line, transitive ones included, so that an
installer has nothing to choose and never backtracks. What else lies in the environment (a peer to compare with, say)
is left out. Run it in an environment in which the whole suite passed.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "constraints.txt"
HEADER = """\
# Written by scripts/make_constraints.py from a tested environment; do not edit by hand.
# Python {python}, {count} packages. Use: pip install --constraint constraints.txt ...
"""


def main() -> int:
    """Write or check the file; returns the exit code."""
    parser = argparse.ArgumentParser(description="Pin the tested environment in constraints.txt.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args()
    pins = pinned_versions(direct_requirements(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))))
    if options.check:
        return _check(pins)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    lines = [f"{name}=={pins[name]}\n" for name in sorted(pins)]
    PATH.write_text(HEADER.format(python=python, count=len(pins)) + "".join(lines), encoding="utf-8")
    print(f"{len(pins)} packages pinned in {PATH.name}")
    return 0


def direct_requirements(project: dict[str, object]) -> list[Requirement]:
    """What pyproject.toml names: dependencies, all extras but those that name the package itself, and the build's."""
    table = project["project"]
    build = project["build-system"]
    assert isinstance(table, dict)
    assert isinstance(build, dict)
    texts = [*table["dependencies"], *build["requires"]]
    for extra in table["optional-dependencies"].values():
        texts.extend(extra)
    return [one for one in map(Requirement, texts) if canonicalize_name(one.name) != table["name"]]


def pinned_versions(requirements: list[Requirement]) -> dict[str, str]:
    """The installed version of each requirement and of everything that it needs here.

    Raises:
        SystemExit: Something needed is not installed, so this is not a complete environment.
    """
    pins: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(one, "") for one in requirements]
    while waiting:
        requirement, of_extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": of_extra}):
            continue
        name = canonicalize_name(requirement.name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            sys.exit(f"{requirement} is needed but not installed; install `.[all,test]` and the build tools first")
        # A build for one kind of machine is named by a local version; the pin is for all kinds.
        pins[name] = found.version.partition("+")[0]
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting.extend((Requirement(text), extra) for text in found.requires or [])
    return pins


def _check(pins: dict[str, str]) -> int:
    lines = PATH.read_text(encoding="utf-8").splitlines()
    written = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    wrong = [
        f"{name}: {written.get(name, 'missing')} in the file, {pins.get(name, 'not needed')} here"
        for name in sorted(pins.keys() | written.keys())
        if pins.get(name) != written.get(name)
    ]
    if wrong:
        print("constraints.txt does not pin this environment:\n  " + "\n  ".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
