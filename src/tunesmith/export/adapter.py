"""The adapter alone, as the PEFT library reads it, with its tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.export.form import Options
from tunesmith.export.runtime import ScoreRuntime, TextRuntime
from tunesmith.export.source import Source, load_base
from tunesmith.export.torch_scores import TorchScores
from tunesmith.export.torch_text import TorchText
from tunesmith.models.adapters import with_adapter
from tunesmith.models.load import load_tokenizer
from tunesmith.runs.atomic import telling_output_errors

_WEIGHTS = ("adapter_config.json", "adapter_model.safetensors")
# What says more of an adapter, where it was trained here.
_BESIDE = ("head.json", "resolved.json")


def require_adapter(source: Source, options: Options) -> None:  # noqa: ARG001 - one form for all
    """Refuse models without an adapter.

    Raises:
        ModelError: ``export.no_adapter``.
    """
    if source.adapter is None:
        raise ModelError(
            "there is no adapter to export",
            code="export.no_adapter",
            place=source.name,
            hint="`--to merged` exports a model that was trained whole",
        )


def write_adapter(source: Source, folder: Path, options: Options) -> dict[str, Any]:  # noqa: ARG001
    """Copy weights and config of the adapter, and save the tokenizer.

    Raises:
        OutputError: The folder cannot be written or the disk is full.
    """
    assert source.adapter is not None
    with telling_output_errors(folder):
        for name in (*_WEIGHTS, *_BESIDE):
            if (source.adapter / name).is_file():
                shutil.copyfile(source.adapter / name, folder / name)
        source.tokenizer.save_pretrained(folder)
    return {"quantization_of_base": None if source.quantization is None else source.quantization.kind}


@contextmanager
def open_adapter_text(folder: Path, source: Source, options: Options) -> Iterator[TextRuntime]:  # noqa: ARG001
    """The exported adapter on its base."""
    yield TorchText(with_adapter(load_base(source), folder), load_tokenizer(folder))


@contextmanager
def open_adapter_scores(folder: Path, source: Source, options: Options) -> Iterator[ScoreRuntime]:  # noqa: ARG001
    """Likewise with a head."""
    yield TorchScores(with_adapter(load_base(source), folder))
