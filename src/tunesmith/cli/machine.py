"""What this machine and this installation are, found without importing the training stack."""

from __future__ import annotations

import ctypes.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from tunesmith.cli.words import count, storage

_NEEDED = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors")
_OPTIONAL = {"tensorboardX": "trackers", "mlflow-skinny": "trackers", "wandb": "trackers"}
_LOW_MEMORY_BYTES = 4_000_000_000
_LOW_DISK_BYTES = 5_000_000_000
_TIMEOUT_SECONDS = 4.0
_ALLOCATORS = {"jemalloc": ("jemalloc",), "tcmalloc": ("tcmalloc_minimal", "tcmalloc")}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``hint`` says what could be done."""

    name: str
    value: str
    ok: bool = True
    hint: str | None = None


def look_at_machine() -> list[Finding]:
    """Every finding; a look that fails is a finding itself."""
    looks: dict[str, Callable[[], list[Finding]]] = {
        "versions": _versions,
        "processor": _processor,
        "memory": _memory,
        "disk": _disk,
        "torch": _torch,
        "packages": _packages,
        "gpu": _gpu,
        "allocator": _allocator,
        "hub": _hub,
    }
    found: list[Finding] = []
    for name, look in looks.items():
        try:
            found += look()
        except Exception as error:
            found.append(Finding(name, f"could not be looked at: {type(error).__name__}: {error}", ok=False))
    return found


def _versions() -> list[Finding]:
    return [
        Finding("tunesmith", version("tunesmith")),
        Finding("python", f"{platform.python_version()} in {sys.prefix}"),
        Finding("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
    ]


def _processor() -> list[Finding]:
    import psutil

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False)
    value = count(usable, "core")
    if physical and physical != usable:
        value += f" usable, {physical} physical"
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads:
        value += f", OMP_NUM_THREADS={threads}"
    return [Finding("processor", value)]


def _memory() -> list[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    low = memory.available < _LOW_MEMORY_BYTES
    hint = "a small model needs about 3 GB; close what is not needed" if low else None
    return [Finding("memory", f"{storage(memory.available)} free of {storage(memory.total)}", not low, hint)]


def _disk() -> list[Finding]:
    from tunesmith.catalog.cache import models_folder
    from tunesmith.cli.terminal import short_path
    from tunesmith.runs.layout import default_runs_folder

    return [
        _folder("cache folder", models_folder(), str(models_folder())),
        _folder("runs folder", default_runs_folder(), short_path(default_runs_folder())),
    ]


def _folder(name: str, folder: Path, shown: str) -> Finding:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK):
        return Finding(
            name, f"{shown}, cannot be written", ok=False, hint="choose another with TUNESMITH_CACHE or TUNESMITH_HOME"
        )
    free = shutil.disk_usage(existing).free
    low = free < _LOW_DISK_BYTES
    return Finding(name, f"{shown}, {storage(free)} free", not low, "free some space" if low else None)


def _torch() -> list[Finding]:
    """The build of torch, read from its version file: importing torch takes seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return [Finding("torch", "not installed", ok=False, hint="pip install tunesmith")]
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    cuda = re.search(r"^cuda\b[^=\n]*=\s*'([^']+)'", text, re.MULTILINE)
    hip = re.search(r"^hip\b[^=\n]*=\s*'([^']+)'", text, re.MULTILINE)
    build = f"CUDA {cuda[1]}" if cuda else f"ROCm {hip[1]}" if hip else "CPU build"
    if cuda and shutil.which("nvidia-smi") is None and sys.platform == "linux":
        hint = "the CPU build is gigabytes smaller where there is no GPU; README says how to get it"
        return [Finding("torch", f"{version('torch')}, {build}, no GPU driver here", hint=hint)]
    return [Finding("torch", f"{version('torch')}, {build}")]


def _packages() -> list[Finding]:
    found = []
    for name in _NEEDED[1:]:
        number = _version(name)
        found.append(
            Finding(name, number or "not installed", number is not None, None if number else "pip install tunesmith")
        )
    have = [f"{name} {_version(name)}" for name in _OPTIONAL if _version(name)]
    missing = sorted({extra for name, extra in _OPTIONAL.items() if not _version(name)})
    value = ", ".join(have) or "none"
    hint = f"pip install 'tunesmith[{','.join(missing)}]' brings the others" if missing else None
    return [*found, Finding("trackers", value, hint=hint)]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpu() -> list[Finding]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return [Finding("gpu", "none found")]
    query = ["--query-gpu=name,memory.total", "--format=csv,noheader"]
    answer = subprocess.run([program, *query], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    names = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    if answer.returncode != 0 or not names:
        return [Finding("gpu", "nvidia-smi found none", ok=False, hint="look at the driver with nvidia-smi")]
    return [Finding("gpu", "; ".join(names))]


def _allocator() -> list[Finding]:
    """What gives memory. As workers tell it to behave the system's was measured fastest; tcmalloc takes the least."""
    if sys.platform != "linux":
        return [Finding("allocator", "the system's")]
    loaded = os.environ.get("LD_PRELOAD", "")
    for name in _ALLOCATORS:
        if name in loaded:
            return [Finding("allocator", f"{name}, by LD_PRELOAD")]
    file = next(filter(None, map(ctypes.util.find_library, _ALLOCATORS["tcmalloc"])), None)
    lean = f"LD_PRELOAD={file}" if file else "tcmalloc (package libtcmalloc-minimal4)"
    hint = f"{lean} needs about a quarter less memory for training, which is then a little slower"
    return [Finding("allocator", "the system's, told to keep large blocks", hint=hint)]


def _hub() -> list[Finding]:
    import httpx

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return [Finding("hub", "HF_HUB_OFFLINE is set: models and data sets come from the cache only")]
    try:
        httpx.head(endpoint, timeout=_TIMEOUT_SECONDS, follow_redirects=True)
    except httpx.HTTPError as error:
        hint = "the starter model and local files work without it; HF_ENDPOINT names a mirror"
        return [Finding("hub", f"{endpoint} does not answer ({type(error).__name__})", ok=False, hint=hint)]
    return [Finding("hub", f"{endpoint} answers")]
