"""What this machine can do: cores, memory, device, and in which numbers it multiplies fastest."""

from __future__ import annotations

import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeGuard

import psutil
import torch
from torch.nn.functional import linear

from tunesmith.catalog.cache import cache_folder, machine_file
from tunesmith.errors import OutputError
from tunesmith.recipe.facts import HostFacts
from tunesmith.runs.atomic import read_json, write_json

# The products of a small transformer's layer: tokens, hidden size, intermediate size.
_TOKENS, _HIDDEN, _INTERMEDIATE = 1024, 576, 1536
_ROUNDS = 12
_TYPES = ("float32", "bfloat16")
# bfloat16 loses digits, so it must be clearly faster before it is worth that.
_WORTHWHILE = 1.3
# Above this, a control group has no limit of its own.
_NO_LIMIT_BYTES = 1 << 60
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def probe_host() -> HostFacts:
    """Measure the machine, or take the measurement of an earlier call from the user's cache.

    The probe takes a few hundred milliseconds and is kept by processor, torch version and threads, unless the
    machine is busy with other work. Memory is that of the processor, also where there is a GPU.
    """
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    speeds = _speeds(device)
    fast: Literal["float32", "bfloat16"] = "float32"
    if speeds["bfloat16"] > _WORTHWHILE * speeds["float32"]:
        fast = "bfloat16"
    found = HostFacts(
        cores=torch.get_num_threads(),
        memory_bytes=memory_bytes(),
        device=device,
        fast_dtype=fast,
        matmul_flops_per_second=speeds[fast],
        matmul_speeds={"float32": speeds["float32"], "bfloat16": speeds["bfloat16"]},
        processor=_processor(device),
        device_memory_bytes=torch.cuda.get_device_properties(0).total_memory if device == "cuda" else None,
    )
    # For plans, which are made without torch.
    _keep(machine_file(), asdict(found))
    return found


def memory_bytes(limit_files: tuple[str, ...] = _CGROUP_LIMITS) -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's where that is less."""
    total = int(psutil.virtual_memory().total)
    for name in limit_files:
        try:
            text = Path(name).read_text("ascii").strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < _NO_LIMIT_BYTES:
            total = min(total, int(text))
    return total


def race(device: str, rounds: int = _ROUNDS) -> dict[str, float]:
    """Floating point operations a second of a linear layer and its gradient in each type, by the fastest round.

    The types take turns, so that other work on the machine slows both.
    """
    wait = torch.cuda.synchronize if device == "cuda" else _nothing
    best = dict.fromkeys(_TYPES, float("inf"))
    with torch.inference_mode():
        sides = {name: _layer(getattr(torch, name), device) for name in _TYPES}
        # The first round warms caches and threads up and is not counted.
        for number in range(rounds + 1):
            for name, (inputs, weights, gradients) in sides.items():
                wait()
                start = time.perf_counter()
                linear(inputs, weights)
                torch.matmul(gradients, weights)
                wait()
                seconds = time.perf_counter() - start
                best[name] = min(best[name], seconds) if number else best[name]
    return {name: 4 * _TOKENS * _HIDDEN * _INTERMEDIATE / seconds for name, seconds in best.items()}


def _layer(dtype: torch.dtype, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, weights, and gradients of the outputs; ones, because only time is asked."""
    shapes = ((_TOKENS, _HIDDEN), (_INTERMEDIATE, _HIDDEN), (_TOKENS, _INTERMEDIATE))
    first, second, third = (torch.ones(shape, dtype=dtype, device=device) for shape in shapes)
    return first, second, third


def _nothing() -> None:
    """A processor has no queue to wait for."""


def _speeds(device: str) -> dict[str, float]:
    key = f"{_processor(device)} | torch {torch.__version__} | {torch.get_num_threads()} threads"
    path = cache_folder() / "host.json"
    known = _read(path)
    kept = known.get(key)
    if _is_measurement(kept):
        return {name: float(kept[name]) for name in _TYPES}
    speeds = race(device)
    if not _is_busy():
        _keep(path, {**known, key: speeds})
    return speeds


def _is_busy() -> bool:
    """Whether other work holds the machine's cores, so that a measurement says little about the machine."""
    return psutil.getloadavg()[0] > (psutil.cpu_count() or 1) + 1


def _is_measurement(speeds: Any) -> TypeGuard[dict[str, float]]:
    return isinstance(speeds, dict) and all(isinstance(speeds.get(name), float) for name in _TYPES)


def _processor(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else processor_name()


def processor_name() -> str:
    """The processor's model; on Linux the kernel knows it better than Python does."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _read(path: Path) -> dict[str, Any]:
    """What was measured before; a broken file is as good as none, since measuring again costs little."""
    try:
        known = read_json(path)
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _keep(path: Path, known: dict[str, Any]) -> None:
    """Keep the measurement where that is possible; a read-only cache only means to measure again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, known)
    except (OSError, OutputError):
        return
