"""Graphs for AMD's VitisAI execution provider: NPUs of Ryzen AI, and FPGA boards of the Zynq and Versal families.

AMD's compiler takes graphs of one fixed shape whose weights and activations are in eight bits, with the scales written
into the graph (QDQ). That is what is made here, by ONNX Runtime's quantizer with scales that are powers of two. The
provider itself comes with AMD's software and is in no package of PyPI, so the graph is checked on the processor, and a
run on a board is not.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import DataError, UsageError
from tunesmith.export.form import Options
from tunesmith.export.source import Source
from tunesmith.models.quiet import quiet_libraries
from tunesmith.runs.atomic import telling_output_errors, write_json, write_text

VITISAI = "vitisai"
PRECISION = "qdq-int8"
FEWEST_ROWS = 4
# What is quantized; a mask that is added holds numbers beside which no other would be left in eight bits.
_PRODUCTS = ("MatMul", "Gemm")
# Of so many percent of the numbers of an activation there is room for; measured best of three on a real encoder.
_PERCENTILE = 99.99
_MOST = 127
# The compiler lays graphs out in blocks.
_TOKEN_BLOCK = 16
_MOST_TOKENS = 512

_README = """\
This folder is what AMD's VitisAI execution provider takes: a graph of one row of {tokens} tokens with weights and
activations in eight bits (QDQ), and provider options. Texts are padded to {tokens} tokens.

It was checked on the processor with ONNX Runtime. A run on an NPU or an FPGA board is NOT verified.

On the device, with AMD's own ONNX Runtime:

    import json, onnxruntime
    options = json.load(open("vitisai_provider_options.json"))
    session = onnxruntime.InferenceSession(
        "model.onnx", providers=["VitisAIExecutionProvider"], provider_options=[options])

config_file and, for boards and older drivers, xclbin come with AMD's software: put their paths into
vitisai_provider_options.json. Operations that the device does not have run on the processor.
"""


def require_rows(rows: Sequence[Sequence[int]], precision: str) -> None:
    """Refuse to fix scales by nothing, and other precisions than the one that the compiler takes.

    Raises:
        UsageError: ``export.target_precision``.
        DataError: ``export.calibration``.
    """
    if precision != PRECISION:
        raise UsageError(
            "this target takes one precision",
            code="export.target_precision",
            place="--precision",
            value=precision,
            hint=f"leave it out, or say --precision {PRECISION}",
        )
    if len(rows) < FEWEST_ROWS:
        raise DataError(
            "scales of activations are fixed by rows, and there are too few",
            code="export.calibration",
            value=f"{len(rows)} rows, at least {FEWEST_ROWS}",
            hint="give rows with --data FILE",
        )


def static_tokens(source: Source, options: Options) -> int:
    """Tokens that each row of the graph has: room for the longest row, in whole blocks.

    Raises:
        DataError: ``export.static_length``: a row is longer than the graph may be.
    """
    limit = min(_MOST_TOKENS, source.context_length or _MOST_TOKENS)
    if options.longest > limit:
        raise DataError(
            "a row is longer than a graph of fixed length may be",
            code="export.static_length",
            value=f"{options.longest} tokens, at most {limit}",
            hint="give shorter rows with --data FILE",
        )
    return min(limit, -(-options.longest // _TOKEN_BLOCK) * _TOKEN_BLOCK)


class _Rows:
    """Calibration rows in the form that ONNX Runtime's quantizer reads."""

    def __init__(self, rows: Sequence[Sequence[int]], tokens: int, pad_token_id: int) -> None:
        self._rows: Iterator[dict[str, NDArray[np.int64]]] = iter(
            [_padded(row[:tokens], tokens, pad_token_id) for row in rows]
        )

    def get_next(self) -> dict[str, NDArray[np.int64]] | None:
        """The next row, None at the end."""
        return next(self._rows, None)


def write_vitisai(plain: Path, folder: Path, source: Source, options: Options, tokens: int) -> dict[str, Any]:
    """Quantize a graph of one shape, and write provider options and a note for whoever runs it.

    Raises:
        OutputError: The folder cannot be written or the disk is full.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    options.say(f"fixing scales by {len(options.calibration)} rows of {tokens} tokens")
    ready = options.scratch / "ready.onnx"
    pad = int(source.tokenizer.pad_token_id or 0)
    with telling_output_errors(folder), warnings.catch_warnings(), quiet_libraries():
        warnings.simplefilter("ignore")
        quant_pre_process(os.fspath(plain), os.fspath(ready), skip_symbolic_shape=True)
        scales = _scales(ready, options, tokens, pad)
        reader: Any = _Rows(options.calibration, tokens, pad)
        quantize_static(
            os.fspath(ready),
            os.fspath(folder / "model.onnx"),
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_PRODUCTS),
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            per_channel=False,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "TensorQuantOverrides": {
                    name: [
                        {
                            "quant_type": QuantType.QInt8,
                            "scale": np.array(scale, np.float32),
                            "zero_point": np.array(0, np.int8),
                        }
                    ]
                    for name, scale in scales.items()
                },
            },
        )
    write_json(
        folder / "vitisai_provider_options.json",
        {"config_file": "vaip_config.json", "xclbin": "", "cache_dir": "./vitisai-cache", "cache_key": source.name},
    )
    write_text(folder / "README.md", _README.format(tokens=tokens))
    return {
        "target": VITISAI,
        "calibration_rows": len(options.calibration),
        "board": "not verified: the provider comes with AMD's software; the graph was checked on the processor",
    }


def _scales(ready: Path, options: Options, tokens: int, pad_token_id: int) -> dict[str, float]:
    """A power of two for each tensor that goes into a product or comes out of one, as AMD's compiler wants them.

    Activations have few numbers that are far greater than all others; room for them would leave the others no bits.
    """
    import onnx
    from onnx import numpy_helper
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    calibrator = create_calibrator(
        ready,
        list(_PRODUCTS),
        augmented_model_path=os.fspath(options.scratch / "augmented.onnx"),
        calibrate_method=CalibrationMethod.Percentile,
        extra_options={"percentile": _PERCENTILE, "num_bins": 2048, "symmetric": True},
    )
    reader: Any = _Rows(options.calibration, tokens, pad_token_id)
    with contextlib.redirect_stdout(io.StringIO()):
        calibrator.collect_data(reader)
        found = calibrator.compute_data()
    scales = {
        name: 2.0 ** round(math.log2(most / _MOST))
        for name in found.keys()  # noqa: SIM118 - it is no dictionary
        if (most := float(max(np.abs(end).max() for end in found[name].range_value))) > 0
    }
    graph = onnx.load(os.fspath(ready)).graph
    weights = {one.name: one for one in graph.initializer}
    used = {name for node in graph.node if node.op_type in _PRODUCTS for name in node.input[:2] if name in weights}
    return scales | {name: _best_scale(numpy_helper.to_array(weights[name])) for name in sorted(used)}


def _best_scale(weights: NDArray[Any]) -> float:
    """The power of two that leaves the smallest squared error: the greatest weights may be cut."""
    largest = math.ceil(math.log2(float(np.abs(weights).max()) / _MOST or 1.0))

    def error(exponent: int) -> float:
        scale = 2.0**exponent
        rounded = np.clip(np.round(weights / scale), -_MOST - 1, _MOST) * scale
        return float(np.square(rounded - weights).sum())

    return float(2.0 ** min(range(largest - 3, largest + 1), key=error))


def _padded(row: Sequence[int], tokens: int, pad_token_id: int) -> dict[str, NDArray[np.int64]]:
    ids = np.full((1, tokens), pad_token_id, dtype=np.int64)
    ids[0, : len(row)] = row
    mask = np.zeros_like(ids)
    mask[0, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}
