"""Environments with packages of other versions than those of the suite, kept in the cache between runs."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import network_guard

from tunesmith.catalog.cache import cache_folder


def environment(*packages: str) -> Path:
    """The interpreter of an environment with some packages, made when it is first needed."""
    key = hashlib.sha256(" ".join((sys.version, *packages)).encode()).hexdigest()[:12]
    folder = cache_folder() / "client-environments" / key
    python = folder / "bin" / "python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The processes of the suite may want the same one at the same time.
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            with network_guard.allowed():
                subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
                subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
            (folder / "complete").touch()
    return python


def packages_of(python: Path) -> Path:
    """The folder of an environment's packages, for a search path."""
    (found,) = (python.parents[1] / "lib").glob("python*/site-packages")
    return found
