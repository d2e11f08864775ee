"""A whole model in safetensors with the adapter worked in: what every program of the Transformers world loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.catalog.heads import write_head
from tunesmith.export.form import Options
from tunesmith.export.runtime import ScoreRuntime, TextRuntime
from tunesmith.export.source import Source, load_base, load_source
from tunesmith.export.streamed_merge import plan_streamed_merge, write_streamed_merge
from tunesmith.export.torch_scores import TorchScores
from tunesmith.export.torch_text import TorchText
from tunesmith.models.adapters import method_of, with_adapter
from tunesmith.models.load import load_tokenizer
from tunesmith.models.quantized import dequantize
from tunesmith.runs.atomic import read_json, telling_output_errors, write_json
from tunesmith.techniques.peft_method import require_mergeable
from tunesmith.techniques.saving import save_model, telling_save_errors

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CONFIGS = ("config.json", "generation_config.json")


def require_merged(source: Source, options: Options) -> None:  # noqa: ARG001 - one form for all
    """Refuse adapters that have nothing to merge.

    Raises:
        ModelError: ``model.merge``.
    """
    if source.adapter is not None:
        require_mergeable(method_of(source.adapter))


def write_merged(source: Source, folder: Path, options: Options) -> dict[str, Any]:
    """Write config, safetensors, tokenizer, and what the head does.

    Files of the base are read one after the other and written under their names. Where an adapter needs the whole
    model, it is loaded, and that is told.

    Raises:
        ModelError: ``model.merge``, and what loading refuses.
        OutputError: The folder cannot be written or the disk is full.
    """
    dtype = _TYPES[options.precision]
    plan = plan_streamed_merge(source)
    with telling_output_errors(folder):
        source.tokenizer.save_pretrained(folder)
    if source.head is not None:
        write_head(folder, source.head)
    if source.adapter is None and source.quantization is None and source.kind != "head":
        plan = "" if isinstance(plan, str) else plan
    if not isinstance(plan, str):
        write_streamed_merge(source, plan, folder, dtype, lambda done, of: options.say(f"merged file {done} of {of}"))
        _write_configs(source, folder, options.precision)
        return {"merged": "file by file"}
    if source.adapter is not None:
        options.warn(f"the whole model is loaded to be merged: {plan}")
    with telling_save_errors(folder):
        save_model(_merged_whole(source).to(dtype), folder)
    return {"merged": "whole" if source.adapter is not None else "nothing to merge"}


def _merged_whole(source: Source) -> Any:
    if source.adapter is None:
        return load_source(source)
    base = load_base(source)
    if source.quantization is not None:
        # What the adapter was trained beside: merged into whole weights it would stand on others.
        base = dequantize(base)
    return with_adapter(base, source.adapter).merge_and_unload(safe_merge=True)


def _write_configs(source: Source, folder: Path, precision: str) -> None:
    for name in _CONFIGS:
        if (source.folder / name).is_file():
            with telling_output_errors(folder):
                shutil.copyfile(source.folder / name, folder / name)
    config = read_json(folder / "config.json")
    config.pop("torch_dtype", None)
    write_json(folder / "config.json", {**config, "dtype": precision})


@contextmanager
def open_merged_text(folder: Path, source: Source, options: Options) -> Iterator[TextRuntime]:  # noqa: ARG001
    """The folder in Transformers, in the type that it says."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
    yield TorchText(model.eval(), load_tokenizer(folder))


@contextmanager
def open_merged_scores(folder: Path, source: Source, options: Options) -> Iterator[ScoreRuntime]:
    """Likewise with a head."""
    plain = replace(source, folder=folder, adapter=None, quantization=None)
    yield TorchScores(load_source(plain).to(_TYPES[options.precision]))


def whole_folder(source: Source, options: Options) -> Path:
    """A folder with all of the model for forms that are made from one: the source's own, or a merged one in scratch."""
    if source.adapter is None and source.quantization is None:
        return source.folder
    folder = options.scratch / "merged"
    with telling_output_errors(folder):
        folder.mkdir()
    options.say("working the adapter into the base")
    write_merged(source, folder, replace(options, precision="float32"))
    return folder


def config_of(folder: Path) -> dict[str, Any]:
    """config.json of a folder."""
    values: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return values
