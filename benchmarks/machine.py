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

from tunesmith.executors.environment import core_limit
from tunesmith.runs.atomic import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = ("tunesmith", "torch", "transformers", "peft", "numpy")
# What decides how fast products of a type are.
PROCESSOR_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_fp16", "bf16", "sve")


def conditions() -> dict[str, Any]:
    """Hardware, versions, commit and time; nothing that names the machine.

    ``cores`` are those of the machine, ``cores_allowed`` those that this process may run on, ``core_limit`` is that of
    its control group and ``threads`` are torch's own choice here.
    """
    import torch  # it takes seconds, which is nothing beside what is measured, but much for who reads --help

    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "core_limit": core_limit(),
        "threads": torch.get_num_threads(),
        "processor": _of_processor("model name") or platform.processor() or "unknown",
        "processor_flags": _flags(),
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
    """Write a result beside the earlier ones, none of which is replaced: a second one of a day has its time too."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    path = RESULTS / f"{now:%Y-%m-%d}-{name}-{host_class()}.json"
    if path.exists():
        path = RESULTS / f"{now:%Y-%m-%d-%H%M%S-%f}-{name}-{host_class()}.json"
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


def _flags() -> list[str]:
    """Those of :data:`PROCESSOR_FLAGS` that the processor has, as far as the system tells."""
    known = (_of_processor("flags") or _of_processor("Features")).split()
    return [flag for flag in PROCESSOR_FLAGS if flag in known]


def _of_processor(key: str) -> str:
    """The first value of a key that the system tells of its processors; empty where it tells none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
