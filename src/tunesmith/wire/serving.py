"""What a server is told to serve, as JSON that whoever starts it writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunesmith.runs.atomic import read_json

# Who has the key of this name asks for others, and says for whom in this header: they are served in turn.
SERVICE_KEY = "service"
TENANT_HEADER = "x-tunesmith-tenant"
# What a request is called by who asks, so that it can be stopped by DELETE of this path; the answer that is waited for
# then has this status, and what was read and written as its ``usage``.
REQUEST_HEADER = "x-tunesmith-request"
STOP_PATH = "/tunesmith/requests"
STOPPED = 499

Runtime = Literal["torch", "onnx", "llama.cpp", "vllm"]


@dataclass(frozen=True)
class ServedModel:
    """A name that requests may use, and what answers to it.

    ``folder`` has config, weights and tokenizer (an exported folder for the runtime ``onnx``, a ``.gguf`` file for
    ``llama.cpp``), ``adapter`` what stands on it.
    """

    name: str
    folder: Path
    adapter: Path | None = None
    runtime: Runtime = "torch"


@dataclass(frozen=True)
class Service:
    """Everything that a server is told.

    Args:
        models: What is served.
        keys: Secrets that let in, by the name of whom each is for; nobody is asked for one where there are none.
        rows_at_once: The most answers that are written at once.
        most_waiting: The most requests that wait.
        adapters_in_memory: How many adapters, and models with heads, stay loaded.
        execution_provider: Of the ONNX Runtime; None takes its processor.
        registry: Address of a registry whose versions are answered for too, where their base is served.
    """

    models: tuple[ServedModel, ...]
    keys: dict[str, str]
    rows_at_once: int = 32
    most_waiting: int = 1024
    adapters_in_memory: int = 32
    execution_provider: str | None = None
    registry: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As :func:`read_service` reads it."""
        models = [
            {
                "name": one.name,
                "folder": str(one.folder),
                "adapter": str(one.adapter) if one.adapter is not None else None,
                "runtime": one.runtime,
            }
            for one in self.models
        ]
        return {
            "format": 1,
            "models": models,
            "keys": self.keys,
            "rows_at_once": self.rows_at_once,
            "most_waiting": self.most_waiting,
            "adapters_in_memory": self.adapters_in_memory,
            "execution_provider": self.execution_provider,
            "registry": self.registry,
        }


def read_service(path: Path) -> Service:
    """Read what :meth:`Service.to_json` says."""
    raw = read_json(path)
    models = tuple(
        ServedModel(one["name"], Path(one["folder"]), Path(one["adapter"]) if one["adapter"] else None, one["runtime"])
        for one in raw["models"]
    )
    settings = {key: raw[key] for key in raw if key not in ("format", "models")}
    return Service(models, **settings)
