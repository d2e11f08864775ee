"""What a run ran on: versions and machine, for reports and manifests."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tunesmith.models.host import processor_name
from tunesmith.recipe.facts import HostFacts

_LIBRARIES = ("tunesmith", "torch", "transformers", "peft", "tokenizers", "numpy", "safetensors")


def environment(host: HostFacts) -> dict[str, Any]:
    """Versions of what computes, and the machine without its name."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in _LIBRARIES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor_name(),
        "device": host.device,
        "threads": host.cores,
        "memory_bytes": host.memory_bytes,
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
