"""Versions for tests of the registry: small real files, and a finished run laid out as a worker leaves it.

store = LocalStore(tmp_path / "registry")
record = add_small(store, tmp_path, "router", {"adapter/a.bin": b"..."})
run = finished_run(tmp_path / "runs" / "one", base=tmp_path / "base")
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tunesmith.registry.card import model_card
from tunesmith.registry.record import Base, Origin, Record
from tunesmith.registry.writing import Content, add_version
from tunesmith.runs.layout import RunFolder
from tunesmith.storage.store import Store


def small_content(folder: Path, files: Mapping[str, bytes], **facts: Any) -> Content:
    """Files written into a folder of their own, and the least facts."""
    place = folder / f"content-{uuid.uuid4().hex[:8]}"
    paths = {}
    for name, content in files.items():
        paths[name] = place / name.replace("/", "--")
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        paths[name].write_bytes(content)
    least = {"kind": "adapter", "origin": Origin(kind="folder", name=place.name), "base": Base(name="x/base")}
    return Content(paths, {**least, **facts})


def add_small(store: Store, folder: Path, name: str, files: Mapping[str, bytes], **facts: Any) -> Record:
    """A version of such content."""
    return add_version(store, name, small_content(folder, files, **facts), model_card)


def base_folder(folder: Path, *, seed: int = 0) -> Path:
    """A folder that passes for a model: config, weights, a tokenizer's file."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"w": np.full((4, 4), seed, dtype=np.float32)}, folder / "model.safetensors")
    return folder


def finished_run(path: Path, base: Path, *, model: str | None = None, seed: int = 1, **report: Any) -> RunFolder:
    """A run with an adapter, a report and a manifest, as a worker leaves it."""
    run = RunFolder(path)
    run.adapter.mkdir(parents=True)
    run.recipe.write_text(f"model: {model or base}\ndata: {{train: /home/somebody/secret/train.jsonl}}\n")
    save_file({"lora_A": np.full((2, 4), seed, dtype=np.float32)}, run.adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": str(base)}
    (run.adapter / "adapter_config.json").write_text(json.dumps(config))
    (run.adapter / "tokenizer.json").write_text("{}")
    (run.adapter / "rendered_example.txt").write_text("a row of the data")
    interval = {"value": 0.25, "low": 0.2, "high": 0.3, "higher_is_better": True}
    whole = {
        "format": 1,
        "run": run.name,
        "task": "classification",
        "objective": "sft",
        "technique": {"name": "lora", "rank": 2},
        "primary_metric": "accuracy",
        "systems": [
            {"name": "base", "metrics": {"accuracy": interval}, "loss": {"value": 2.0}},
            {"name": "tuned", "metrics": {"accuracy": {**interval, "value": 0.75, "low": 0.7, "high": 0.8}}},
        ],
        "verdict": {"text": "better: accuracy rose"},
        "cost": {"steps": 12},
        "data": {
            "train": {"files": [{"name": "/home/somebody/secret/train.jsonl", "sha256": "ab" * 32}], "used_rows": 9},
            "validation": {"files": [{"name": "held.jsonl", "sha256": "cd" * 32}], "used_rows": 3},
        },
        **report,
    }
    run.report_json.write_text(json.dumps(whole))
    manifest = {
        "format": 1,
        "run": run.name,
        "created": "2026-11-01T00:00:00+00:00",
        "identity": "ef" * 32,
        "model": {"name": model or str(base), "source": "folder", "folder": os.path.relpath(base, path)},
        "data": {"train": "11" * 32, "held_out": "22" * 32},
        "task": {"name": "classification", "labels": ["a", "b"]},
        "seed": 7,
        "environment": {"torch": "2", "peft": "0"},
        "counts": {"steps": 12},
    }
    run.manifest.write_text(json.dumps(manifest))
    return run
