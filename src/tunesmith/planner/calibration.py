"""What finished runs taught about a machine: how much more or less activations and time were than predicted.

    CACHE/calibration.json
      {"version": 1, "machines": {"this-machine | AMD EPYC | 2 cores": {"memory": {"scale": 1.04, "runs": 3}, ...}}}

    hardware = apply(hardware, read_calibration())            # predictions are then scaled
    learn(hardware, plan.memory, plan.time, peak_bytes=measured, step_seconds=measured)

A scale is an exponential average of measured over predicted, where predictions are those without any scale, so that
learning twice from the same run changes nothing but its weight. A run of fewer than LEAST_STEPS teaches nothing.
A scale is held between bounds: a run that another program disturbed must not spoil the plans to come. A file that
cannot be read is as good as none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.catalog.cache import cache_folder
from tunesmith.errors import OutputError
from tunesmith.planner.hardware import Hardware
from tunesmith.planner.memory import MemoryPlan
from tunesmith.planner.time import TimePlan
from tunesmith.runs.atomic import read_json, write_json

VERSION = 1
# Of fewer steps the first ones, which find caches cold, are too large a part.
LEAST_STEPS = 5
# Share of the newest run; the first one counts whole.
NEWEST = 0.3
BOUNDS = {"memory": (0.8, 1.25), "time": (0.2, 5.0)}
# Of a small pack the libraries and the allocator decide, which says nothing of activations.
LEAST_ACTIVATIONS = 0.3


@dataclass(frozen=True)
class Scale:
    """An average of measured over predicted, from so many runs."""

    scale: float = 1.0
    runs: int = 0

    def after(self, ratio: float, kind: str) -> Scale:
        """The average with one more run; a ratio that is no number changes nothing."""
        if not math.isfinite(ratio) or ratio <= 0:
            return self
        low, high = BOUNDS[kind]
        bounded = min(high, max(low, ratio))
        mean = bounded if not self.runs else (1 - NEWEST) * self.scale + NEWEST * bounded
        return Scale(min(high, max(low, mean)), self.runs + 1)


@dataclass(frozen=True)
class Calibration:
    """Scales by machine and kind (``memory``, ``time``)."""

    machines: Mapping[str, Mapping[str, Scale]]

    def scale(self, hardware: Hardware, kind: str) -> Scale:
        """What is known; a scale of 1 where nothing is."""
        return self.machines.get(key_of(hardware), {}).get(kind, Scale())


def key_of(hardware: Hardware) -> str:
    """What tells machines apart that share a cache."""
    return f"{hardware.id} | {hardware.name} | {hardware.cores} cores"


def calibration_path() -> Path:
    """Where it is kept."""
    return cache_folder() / "calibration.json"


def read_calibration(path: Path | None = None) -> Calibration:
    """What is known so far; nothing where the file is missing, broken, or of a later version."""
    try:
        data = read_json(path or calibration_path())
        machines = data["machines"] if data.get("version") == VERSION else {}
        return Calibration({key: _scales(kinds) for key, kinds in machines.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Calibration({})


def apply(hardware: Hardware, calibration: Calibration) -> Hardware:
    """The hardware with what is known of it, so that predictions are scaled."""
    return hardware.model_copy(
        update={
            "activation_scale": calibration.scale(hardware, "memory").scale,
            "time_scale": calibration.scale(hardware, "time").scale,
        }
    )


def learn(
    hardware: Hardware,
    memory: MemoryPlan,
    time: TimePlan,
    *,
    peak_bytes: int | None,
    step_seconds: float | None,
    path: Path | None = None,
) -> Calibration:
    """Take a finished run into account and write what is known now.

    Args:
        hardware: What the predictions were made for, with the scales that they were made with.
        memory: The prediction of memory.
        time: The prediction of time.
        peak_bytes: What one device held at most, the libraries included; None: not measured.
        step_seconds: What a step took on average; None: not measured.
        path: Of the file, if not in the cache.

    A cache that cannot be written keeps what it had.
    """
    place = path or calibration_path()
    known = read_calibration(place)
    kinds = dict(known.machines.get(key_of(hardware), {}))
    telling = memory.activations >= LEAST_ACTIVATIONS * memory.training and memory.training >= memory.peak
    if peak_bytes is not None and telling:
        # All that differs is laid to the activations, which are the part that is least certain.
        predicted = memory.activations / hardware.activation_scale
        ratio = (peak_bytes - (memory.training - memory.activations)) / predicted
        kinds["memory"] = kinds.get("memory", Scale()).after(ratio, "memory")
    if step_seconds is not None and time.step_seconds > 0:
        ratio = step_seconds / (time.step_seconds / hardware.time_scale)
        kinds["time"] = kinds.get("time", Scale()).after(ratio, "time")
    found = Calibration({**known.machines, key_of(hardware): kinds})
    _write(place, found)
    return found


def _write(path: Path, calibration: Calibration) -> None:
    machines = {
        key: {kind: {"scale": one.scale, "runs": one.runs} for kind, one in kinds.items()}
        for key, kinds in calibration.machines.items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"version": VERSION, "machines": machines})
    except (OSError, OutputError):
        return


def _scales(kinds: Mapping[str, Any]) -> dict[str, Scale]:
    found = {}
    for kind, (low, high) in BOUNDS.items():
        if kind in kinds:
            scale, runs = float(kinds[kind]["scale"]), int(kinds[kind]["runs"])
            if math.isfinite(scale) and runs > 0:
                found[kind] = Scale(min(high, max(low, scale)), runs)
    return found
