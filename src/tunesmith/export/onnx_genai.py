"""ONNX for ONNX Runtime GenAI, Foundry Local and AI Toolkit: written by Microsoft's model builder, read by its runtime.

The builder promises no interface for Python and changes the import path, so it runs as a process of its own; it gets
a folder on this disk and no network.

Shape suffixes: T tokens of a row, L places of a row, V vocabulary.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.errors import ModelError, UsageError, missing_extra
from tunesmith.export.form import Options
from tunesmith.export.foundry import write_inference_model
from tunesmith.export.merged import require_merged, whole_folder
from tunesmith.export.onnx_providers import require_provider
from tunesmith.export.runtime import Likeliest, TextRuntime, likeliest_of, log_softmax
from tunesmith.export.source import Source
from tunesmith.models.check import read_config
from tunesmith.runs.atomic import output_error, telling_output_errors

_PACKAGES = ("onnxruntime", "onnxruntime_genai", "onnx", "onnx_ir")
# The attention of ONNX Runtime takes heads of a multiple of so many numbers.
_HEAD_BLOCK = 16
# Some matrices keep eight bits: 0.22 nats instead of 0.51 on the starter model, for a third more bytes.
_SETTINGS = {"int4": ("algo_config=k_quant_mixed",)}
_MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors.index.json")


class GenAiText:
    """A folder that the builder wrote, loaded; answers come one at a time."""

    def __init__(self, model: Any, tokenizer: Any, most_tokens: int, adapters: Any = None) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._most_tokens = most_tokens
        self._adapters = adapters
        self._active: str | None = None

    def use(self, adapter: str | None) -> None:
        """Answer with one of the loaded adapters from now on; None for the base."""
        self._active = adapter

    def likeliest(self, token_ids_T: Sequence[int], positions_L: Sequence[int]) -> Likeliest:
        """As in :class:`tunesmith.export.runtime.TextRuntime`."""
        generator = self._generator(token_ids_T)
        logits_T_V = np.asarray(generator.get_output("logits"))[0]
        return likeliest_of(log_softmax(logits_T_V[list(positions_L)]))

    def continue_greedily(
        self, prompt_T: Sequence[int], max_new_tokens: int, stop_token_ids: Sequence[int]
    ) -> list[int]:
        """As in :class:`tunesmith.export.runtime.TextRuntime`."""
        generator = self._generator(prompt_T)
        said: list[int] = []
        while len(said) < max_new_tokens and not generator.is_done():
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            if token in stop_token_ids:
                break
            said.append(token)
        return said

    def encode(self, text: str) -> list[int]:
        """As in :class:`tunesmith.export.runtime.TextRuntime`."""
        return [int(token) for token in self._tokenizer.encode(text)]

    def _generator(self, tokens_T: Sequence[int]) -> Any:
        import onnxruntime_genai

        params = onnxruntime_genai.GeneratorParams(self._model)
        params.set_search_options(
            max_length=max(self._most_tokens, len(tokens_T) + 1),
            do_sample=False,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
        )
        generator = onnxruntime_genai.Generator(self._model, params)
        if self._active is not None:
            generator.set_active_adapter(self._adapters, self._active)
        generator.append_tokens(np.asarray([int(token) for token in tokens_T], dtype=np.int32))
        return generator


def require_onnx() -> None:
    """Refuse where ONNX Runtime, its GenAI package or what the builder needs is not installed.

    Raises:
        UsageError: ``usage.missing_extra``.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise missing_extra(
            "ONNX exports need packages that are not installed", "onnx", place="--to onnx", value=", ".join(missing)
        )


def require_genai(source: Source, options: Options) -> None:
    """Refuse what the builder or its runtime cannot take, before anything is written.

    Raises:
        UsageError: ``usage.missing_extra``, ``export.provider``, ``export.target``.
        ModelError: ``export.onnx_head_size``, ``model.merge``.
    """
    require_onnx()
    require_provider(options.provider)
    if options.target is not None:
        raise UsageError(
            "this target takes heads and encoders, not models that write",
            code="export.target",
            place="--target",
            value=options.target,
            hint="AMD's flow for models that write is a builder of its own; leave --target out for ONNX Runtime GenAI",
        )
    require_merged(source, options)
    config = read_config(source.folder)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    if size % _HEAD_BLOCK:
        raise ModelError(
            "ONNX Runtime's attention cannot take this model",
            code="export.onnx_head_size",
            place=source.name,
            value=f"heads of {size} numbers; they must be a multiple of {_HEAD_BLOCK}",
            hint="export it to gguf or merged",
        )


def write_genai(source: Source, folder: Path, options: Options) -> dict[str, Any]:
    """Write model.onnx, genai_config.json, the tokenizer and inference_model.json.

    Raises:
        ModelError: ``export.onnx_builder``: the builder does not take the model.
        OutputError: The folder cannot be written or the disk is full.
    """
    whole = whole_folder(source, options)
    options.say(f"the model builder writes {options.precision} for {options.provider}")
    build(whole, folder, options, source)
    write_inference_model(folder, source.name, source.tokenizer)
    return {"builder": "onnxruntime-genai", "execution_provider": options.provider}


def build(whole: Path, folder: Path, options: Options, source: Source, *extra: str) -> None:
    """Run the builder on a folder with a whole model.

    The tokenizer is that of the source, which may know tokens that the folder's does not.

    Raises:
        ModelError: ``export.onnx_builder``.
        OutputError: The disk is full.
    """
    inputs = options.scratch / "builder-input"
    with telling_output_errors(inputs):
        inputs.mkdir()
        for path in whole.iterdir():
            if path.suffix == ".safetensors" or path.name in _MODEL_FILES:
                (inputs / path.name).symlink_to(path.resolve())
        source.tokenizer.save_pretrained(inputs)
    command = [sys.executable, "-P", "-m", "onnxruntime_genai.models.builder"]
    command += ["-i", str(inputs), "-o", str(folder), "-p", options.precision, "-e", options.provider]
    settings = ["hf_token=false", *_SETTINGS.get(options.precision, ()), *extra]
    command += ["-c", str(options.scratch / "builder-cache"), "--extra_options", *settings]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    with telling_output_errors(folder):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / "model.onnx").is_file():
        told = (done.stderr or done.stdout).strip()
        if "No space left on device" in told or "File too large" in told:
            raise output_error(OSError(errno.ENOSPC, "No space left on device"), folder)
        raise ModelError(
            "the model builder does not take this model",
            code="export.onnx_builder",
            place=source.name,
            value=told[-400:],
            hint="export it to gguf or merged",
        )


@contextmanager
def open_genai(folder: Path, source: Source, options: Options) -> Iterator[TextRuntime]:  # noqa: ARG001
    """The folder in ONNX Runtime GenAI."""
    import onnxruntime_genai

    with telling_runtime_errors(folder):
        model = onnxruntime_genai.Model(os.fspath(folder))
        tokenizer = onnxruntime_genai.Tokenizer(model)
    yield GenAiText(model, tokenizer, options.longest)


@contextmanager
def telling_runtime_errors(folder: Path) -> Iterator[None]:
    """Turn what the runtime says of a folder that it does not take into our error."""
    try:
        yield
    except RuntimeError as error:
        raise ModelError(
            "ONNX Runtime GenAI does not take the folder",
            code="export.onnx_runtime",
            place=folder.name,
            value=str(error)[:300],
        ) from error
