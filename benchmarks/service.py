"""The hosted service under load and under faults: seconds by route, memory by process, and that nothing is lost.

    python -m benchmarks.service [--quick] [--part load faults] [--database sqlite postgresql]

A real service (`tunesmith up`) on a tiny model, so that what is measured is the service and not the training. Load: a
large upload, hundreds of queued jobs, and clients that poll and stream meanwhile. Faults: each part is killed while
jobs run (benchmarks/service_faults.py); afterwards every job has succeeded, once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, conditions, host_class, keep, print_table

sys.path.insert(0, str(ROOT / "tests"))

from live_service import LiveService, live_service
from service_site import database_url
from tiny_models import tiny_model_folder

from benchmarks.service_faults import FAULTS, run_fault
from benchmarks.service_load import Load, run_load

_LIBRARIES = ("fastapi", "sqlalchemy", "uvicorn", "psycopg")


@dataclass(frozen=True)
class Size:
    """How much is done."""

    load: Load
    jobs_of_fault: int


WHOLE = Size(Load(jobs=500, clients=50, upload_bytes=500 * 2**20, seconds=60.0), jobs_of_fault=3)
QUICK = Size(Load(jobs=20, clients=8, upload_bytes=24 * 2**20, seconds=3.0), jobs_of_fault=1)


def main() -> None:
    """Measure, print and keep."""
    options = _options()
    size = QUICK if options.quick else WHOLE
    before = conditions() | {name: version(name) for name in _LIBRARIES}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tunesmith-service-") as scratch:
        model = tiny_model_folder("llama", Path(scratch) / "tiny")
        for kind in options.database:
            found[kind] = {}
            if "load" in options.part:
                with _service(Path(scratch) / f"{kind}-load", kind, model) as service:
                    found[kind]["load"] = run_load(service, size.load)
            if "faults" in options.part:
                found[kind]["faults"] = _faults(Path(scratch) / f"{kind}-faults", kind, model, size)
    for kind, parts in found.items():
        print_table(_rows(kind, parts))
    if not options.quick:
        path = keep("service", {"measured": found, "conditions": before, "host_class": host_class()})
        print(f"kept in {path.name}")
    lost = [words for parts in found.values() for words in _lost(parts)]
    print("nothing was lost, and nothing was done twice" if not lost else "\n".join(lost))
    sys.exit(1 if lost else 0)


def _faults(folder: Path, kind: str, model: Path, size: Size) -> dict[str, Any]:
    measured = {}
    for name in FAULTS:
        if name == "database" and kind != "postgresql":
            continue
        measured[name] = run_fault(name, folder / name, kind, model, size.jobs_of_fault)
    return measured


@contextmanager
def _service(folder: Path, kind: str, model: Path) -> Iterator[LiveService]:
    folder.mkdir(parents=True)
    config = folder / "config.yaml"
    config.write_text("limits: {requests_per_minute: 1000000, jobs_waiting: 10000}\n")
    options = ("--database", database_url(kind, folder), "--models", f"tiny={model}", "--api-processes", "2")
    with live_service(folder, *options, "--config", str(config)) as service:
        yield service


def _rows(kind: str, parts: dict[str, Any]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    load = parts.get("load", {})
    for route, numbers in load.get("routes", {}).items():
        told = f"{numbers['count']:>6} times, {numbers['p50_ms']:.1f} ms, 99 of 100 below {numbers['p99_ms']:.1f} ms"
        rows[f"{kind}: {route}"] = told
    for process, mib in load.get("memory_mib", {}).items():
        rows[f"{kind}: memory of {process}"] = f"{mib:.0f} MiB at most"
    for name, one in parts.get("faults", {}).items():
        rows[f"{kind}: {name}"] = f"back after {one['seconds_until_back']:.1f} s, all done after {one['seconds']:.0f} s"
    return rows


def _lost(parts: dict[str, Any]) -> list[str]:
    found = list(parts.get("load", {}).get("lost", []))
    for name, one in parts.get("faults", {}).items():
        found += [f"{name}: {words}" for words in one["lost"]]
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The hosted service under load and under faults.")
    parser.add_argument("--quick", action="store_true", help="little of everything, kept nowhere")
    parser.add_argument("--part", nargs="*", default=["load", "faults"], choices=["load", "faults"])
    parser.add_argument("--database", nargs="*", default=["sqlite", "postgresql"], choices=["sqlite", "postgresql"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
