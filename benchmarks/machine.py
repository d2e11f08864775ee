"""What a benchmark's numbers were measured on, and where they are kept."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tunesmith.runs.atomic import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = ("tunesmith", "torch", "transformers", "peft", "numpy")


def conditions() -> dict[str, Any]:
    """Hardware, versions, commit and time; nothing that names the machine."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def host_class() -> str:
    """A name for machines like this one."""
    return f"{platform.system()}-{platform.machine()}-{os.cpu_count()}-cores".lower()


def keep(name: str, result: Mapping[str, Any]) -> Path:
    """Write a result beside the earlier ones; a second one of the same day replaces the first."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-{name}-{host_class()}.json"
    write_json(path, result)
    return path


def print_table(rows: Mapping[str, Any]) -> None:
    """Two columns."""
    width = max(map(len, rows))
    for name, value in rows.items():
        shown = f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
        print(f"{name:<{width}}  {shown}")


def _commit() -> str:
    told = [
        subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
        for arguments in (("rev-parse", "--short", "HEAD"), ("status", "--short"))
    ]
    return f"{told[0]} with local changes" if told[1] else told[0]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
