"""LoRA adapters that switch at run time on one ONNX model: ``.onnx_adapter`` files beside a base.

The model builder is given an adapter of zeros that covers what all adapters change, at the highest of their ranks. The
weights of this adapter become inputs of the graph whose default is zero, which leaves the base as it is; a file gives
them the values of one adapter. Adapters of a lower rank are filled up with zeros, which changes nothing.

Shape suffixes: I inputs and O outputs of a layer, R rank.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import load_file

from tunesmith.errors import ModelError, Problem
from tunesmith.export.compare_text import TextRows
from tunesmith.export.form import Options
from tunesmith.export.foundry import write_inference_model
from tunesmith.export.merged import whole_folder
from tunesmith.export.onnx_genai import GenAiText, build, require_genai, telling_runtime_errors
from tunesmith.export.runtime import TextRuntime
from tunesmith.export.source import Source
from tunesmith.models.adapters import method_of
from tunesmith.models.quantized import dequantize
from tunesmith.runs.atomic import read_json, telling_output_errors, write_json
from tunesmith.techniques.saving import telling_save_errors

LIST = "adapters.json"
_PREFIX = "base_model.model."
_VERSION = 1
# What a LoRA of another kind brings that two matrices cannot say.
_MORE_THAN_LORA = ("use_dora", "modules_to_save", "trainable_token_indices", "lora_bias", "layer_replication")

Matrix = NDArray[np.float32]


def require_adapters(source: Source, options: Options) -> None:
    """Refuse what is no plain LoRA, before anything is written.

    Raises:
        UsageError: As :func:`tunesmith.export.onnx_genai.require_genai`.
        ModelError: ``export.no_adapter``, ``export.onnx_adapter``.
    """
    require_genai(source, options)
    if source.adapter is None:
        raise ModelError(
            "there is no adapter to export",
            code="export.no_adapter",
            place=source.name,
            hint="`--to onnx` exports a whole model",
        )
    problems = [
        Problem("export.onnx_adapter", reason, place=name)
        for name, adapter in adapters_of(source).items()
        if (reason := _unfit(adapter)) is not None
    ]
    if problems:
        raise ModelError(
            "only plain LoRA adapters switch on one ONNX model",
            hint="`--to onnx` works any adapter into the model",
            problems=problems,
        )


def adapters_of(source: Source) -> Mapping[str, Path]:
    """All adapters that are exported, by name."""
    assert source.adapter is not None
    return {source.name: source.adapter, **dict(source.more_adapters)}


def _unfit(adapter: Path) -> str | None:
    if method_of(adapter) != "lora":
        return f"its method is {method_of(adapter)}"
    config = read_json(adapter / "adapter_config.json")
    more = [key for key in _MORE_THAN_LORA if config.get(key)]
    return f"it has {', '.join(more)}" if more else None


def write_adapters(source: Source, folder: Path, options: Options) -> dict[str, Any]:
    """Write the base model, a file for each adapter, and a list of them.

    Raises:
        ModelError: ``export.onnx_builder``, ``export.onnx_adapter``.
        OutputError: The folder cannot be written or the disk is full.
    """
    weights = {name: _matrices(adapter) for name, adapter in adapters_of(source).items()}
    rank = max(matrix.shape[0] for one in weights.values() for key, matrix in one.items() if ".lora_A." in key)
    shapes = _largest_shapes(weights.values(), rank)
    zero = options.scratch / "zero-adapter"
    _write_zero_adapter(zero, shapes, rank)
    base = _plain_base(source, options)
    options.say(f"the model builder writes {options.precision} with room for adapters of rank {rank}")
    names = {key: _graph_name(key) for key in shapes}
    excluded = [] if options.precision == "fp32" else [f"nodes_to_exclude={','.join(map(_node_name, names.values()))}"]
    build(base, folder, options, source, f"adapter_path={zero}", *excluded)
    _open_inputs(folder / "model.onnx", list(names.values()), source)
    with telling_output_errors(folder):
        for name, matrices in weights.items():
            _write_adapter(folder / f"{name}.onnx_adapter", matrices, shapes, names)
    write_json(
        folder / LIST, {"format": 1, "rank": rank, "adapters": {name: f"{name}.onnx_adapter" for name in weights}}
    )
    write_inference_model(folder, source.name, source.tokenizer)
    return {"builder": "onnxruntime-genai", "rank": rank, "adapters": list(weights)}


def _matrices(adapter: Path) -> dict[str, Matrix]:
    """A and B of each layer by PEFT's names, the scale worked into B."""
    config = read_json(adapter / "adapter_config.json")
    found = {}
    for key, tensor in load_file(adapter / "adapter_model.safetensors").items():
        matrix: Matrix = tensor.float().numpy()
        found[key] = matrix * np.float32(_scale(config, key)) if ".lora_B." in key else matrix
    return found


def _scale(config: Mapping[str, Any], key: str) -> float:
    layer = key.removeprefix(_PREFIX).partition(".lora_")[0]
    rank = _of_pattern(config.get("rank_pattern") or {}, layer, config["r"])
    alpha = _of_pattern(config.get("alpha_pattern") or {}, layer, config["lora_alpha"])
    return float(alpha) / (float(rank) ** 0.5 if config.get("use_rslora") else float(rank))


def _of_pattern(pattern: Mapping[str, Any], layer: str, default: Any) -> Any:
    """PEFT's rule: the first entry that the layer's name ends with, as an expression."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", layer)), default)


def _largest_shapes(adapters: Any, rank: int) -> dict[str, tuple[int, int]]:
    shapes: dict[str, tuple[int, int]] = {}
    for matrices in adapters:
        for key, matrix in matrices.items():
            shapes[key] = (rank, matrix.shape[1]) if ".lora_A." in key else (matrix.shape[0], rank)
    return shapes


def _write_zero_adapter(folder: Path, shapes: Mapping[str, tuple[int, int]], rank: int) -> None:
    layers = sorted({key.removeprefix(_PREFIX).partition(".lora_")[0] for key in shapes})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": layers,
        "bias": "none",
        "inference_mode": True,
    }
    zeros = {key: np.zeros(shape, dtype=np.float32) for key, shape in shapes.items()}
    with telling_save_errors(folder):
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        save_file(zeros, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _plain_base(source: Source, options: Options) -> Path:
    """The folder of the base; one in fewer bits is made plain first, with the numbers that it stands for."""
    from dataclasses import replace

    from tunesmith.export.source import load_base
    from tunesmith.techniques.saving import save_model

    if source.quantization is None:
        return whole_folder(replace(source, adapter=None), options)
    folder = options.scratch / "plain-base"
    options.warn("the base is loaded whole to make its weights plain")
    with telling_output_errors(folder):
        folder.mkdir()
    model: Any = dequantize(load_base(source))
    save_model(model, folder)
    return folder


def _graph_name(key: str) -> str:
    """The name that the builder gives a matrix: model.layers.0.attn.q_proj.lora_A.MatMul.weight."""
    own = key.removeprefix(_PREFIX).removesuffix(".weight").replace(".self_attn.", ".attn.")
    return f"{own}.MatMul.weight"


def _node_name(graph_name: str) -> str:
    return "/" + graph_name.removesuffix(".weight").replace(".", "/").replace("model/layers/", "model/layers.")


def _open_inputs(path: Path, names: Sequence[str], source: Source) -> None:
    """Make the zero weights inputs that a caller may give; what stays in the graph is their default."""
    import onnx

    model = onnx.load(os.fspath(path), load_external_data=False)
    there = {one.name: one for one in model.graph.initializer}
    missing = [name for name in names if name not in there]
    if missing:
        raise ModelError(
            "the model builder lays this family's layers out in a way that adapters do not fit",
            code="export.onnx_adapter",
            place=source.name,
            value=missing[0],
            hint="`--to onnx` works the adapter into the model",
        )
    for name in names:
        known = there[name]
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, known.data_type, list(known.dims)))
    with telling_output_errors(path):
        onnx.save_model(model, os.fspath(path))


def _write_adapter(
    path: Path, matrices: Mapping[str, Matrix], shapes: Mapping[str, tuple[int, int]], names: Mapping[str, str]
) -> None:
    import onnxruntime

    values = {}
    for key, shape in shapes.items():
        filled = np.zeros(shape, dtype=np.float32)
        if key in matrices:
            own = matrices[key]
            filled[: own.shape[0], : own.shape[1]] = own
        # ONNX multiplies rows with [I, R] and [R, O].
        values[names[key]] = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(filled.T))
    adapter = onnxruntime.AdapterFormat()
    adapter.set_adapter_version(_VERSION)
    adapter.set_model_version(_VERSION)
    adapter.set_parameters(values)
    adapter.export_adapter(os.fspath(path))


@contextmanager
def open_adapter(folder: Path, source: Source, options: Options) -> Iterator[TextRuntime]:
    """The base with the source's adapter active."""
    with _opened(folder, options) as runtime:
        runtime.use(source.name)
        yield runtime


@contextmanager
def _opened(folder: Path, options: Options) -> Iterator[GenAiText]:
    import onnxruntime_genai

    with telling_runtime_errors(folder):
        model = onnxruntime_genai.Model(os.fspath(folder))
        adapters = onnxruntime_genai.Adapters(model)
        for name, file in read_json(folder / LIST)["adapters"].items():
            adapters.load(os.fspath(folder / file), name)
    yield GenAiText(model, onnxruntime_genai.Tokenizer(model), options.longest, adapters)


def switching_problems(
    folder: Path, answers: Mapping[str, Sequence[Sequence[int]]], rows: TextRows, options: Options
) -> list[Problem]:
    """Answer with one adapter after the other in one loaded model; each must answer as it did alone."""
    problems = []
    with _opened(folder, options) as runtime:
        for at, prompt in enumerate(rows.prompts):
            for name, alone in answers.items():
                runtime.use(name)
                said = runtime.continue_greedily(prompt, rows.max_new_tokens, rows.stop_token_ids)
                if list(said) != list(alone[at]):
                    value = f"prompt {at + 1}"
                    problems.append(
                        Problem("export.switching", "the adapter answers otherwise beside others", name, value)
                    )
    return problems
