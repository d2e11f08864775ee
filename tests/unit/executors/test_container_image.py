"""The container image, as far as reading its Dockerfile goes: no image can be built where the tests run."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "deploy" / "Dockerfile"
LINES = re.sub(r"\\\n", " ", FILE.read_text()).splitlines()
STEPS = [tuple(line.split(maxsplit=1)) for line in LINES if line.strip() and not line.startswith("#")]


def steps(word: str) -> list[str]:
    return [rest for first, rest in STEPS if first == word]


def copied() -> list[str]:
    """What comes from the repository, and not from another stage."""
    return [source for rest in steps("COPY") if not rest.startswith("--from=") for source in rest.split()[:-1]]


def test_every_file_that_is_copied_is_there_and_reaches_the_builder() -> None:
    rules = [line for line in FILE.with_suffix(".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert copied()
    for source in copied():
        assert (ROOT / source).exists(), source
        sent = True
        for rule in rules:
            if fnmatch.fnmatch(source, rule.removeprefix("!")):
                sent = rule.startswith("!")
        assert sent, f"{source} is left out by the ignore file"


def test_everything_that_the_build_of_the_package_needs_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"pyproject.toml", "constraints.txt", "src", project["readme"], *project["license-files"]} <= set(copied())
    extras = next(rest for rest in steps("ARG") if rest.startswith("EXTRAS=")).partition("=")[2].split(",")
    assert set(extras) <= project["optional-dependencies"].keys()


def test_it_runs_as_the_user_of_the_manifests_and_not_as_root() -> None:
    from tunesmith.executors.kubernetes.pod import pod_security

    assert steps("USER")[-1] == f"{pod_security()['runAsUser']}:{pod_security()['runAsGroup']}"
    # Nothing is done after that which would need more.
    words = [first for first, _ in STEPS]
    assert "RUN" not in words[words.index("USER") :]


def test_versions_are_pinned() -> None:
    (image,) = [rest.partition("=")[2] for rest in steps("ARG") if rest.startswith("PYTHON_IMAGE=")]
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-[a-z]+-[a-z]+", image)
    assert {rest.split()[0] for rest in steps("FROM")} == {"${PYTHON_IMAGE}"}
    installs = [part for rest in steps("RUN") for part in rest.split("&&") if "pip install" in part]
    assert len(installs) == 3
    pins = (ROOT / "constraints.txt").read_text()
    for install in installs:
        assert "--constraint constraints.txt" in install or "grep '^torch=='" in install
    for name in re.findall(r"\^(\w+)==", " ".join(installs)):
        assert re.search(rf"(?m)^{name}==", pins), name


def test_no_secret_is_an_argument() -> None:
    assert not re.search(r"(?i)(token|password|secret|api_?key)", " ".join(steps("ARG") + steps("ENV")))
