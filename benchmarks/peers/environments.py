"""Virtual environments of the peers, made once from pinned versions and kept in the user's cache."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from tunesmith.catalog.cache import cache_folder

HERE = Path(__file__).parent


def versions_of(peer: str) -> dict[str, str]:
    """The pinned version of every package of a peer's environment.

    Args:
        peer: As in :func:`python_of`.
    """
    lines = (HERE / f"{peer}.txt").read_text(encoding="utf-8").splitlines()
    return {name: version for name, mark, version in (line.partition("==") for line in lines) if mark}


def python_of(peer: str) -> Path:
    """The Python of a peer's environment, which is made first if it is not there; that takes minutes.

    Args:
        peer: The name of a file of pinned versions in this folder, ``trl`` or ``llamafactory``.
    """
    requirements = HERE / f"{peer}.txt"
    mark = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = cache_folder() / "benchmarks" / f"{peer}-{mark}"
    python, done = folder / "bin" / "python", folder / "complete"
    if not done.exists():
        print(f"making the environment of {peer}: some minutes, once", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "--no-deps", "-r", str(requirements)], check=True)
        done.touch()
    return python
