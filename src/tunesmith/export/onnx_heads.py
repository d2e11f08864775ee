"""Heads and encoders as plain ONNX: token numbers and a mask go in, scores come out, for any number of rows and tokens.

``labels.json`` beside the graph says what the scores mean. The graph is traced: PyTorch's older exporter gives the same
scores as its newer one for every kind of head here, takes a tenth of the time and needs one package less.

Shape suffixes: B rows, T tokens of a row.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tunesmith.errors import ModelError
from tunesmith.export.form import Options
from tunesmith.export.merged import require_merged
from tunesmith.export.onnx_genai import require_onnx
from tunesmith.export.onnx_providers import require_provider
from tunesmith.export.runtime import ScoreRuntime
from tunesmith.export.source import Source, load_base, load_source
from tunesmith.export.torch_scores import scores_of
from tunesmith.export.vitisai import VITISAI, require_rows, static_tokens, write_vitisai
from tunesmith.models.adapters import with_adapter
from tunesmith.models.quantized import dequantize
from tunesmith.models.quiet import quiet_libraries
from tunesmith.runs.atomic import telling_output_errors, write_json

FILE = "model.onnx"
LABELS = "labels.json"
_OPSET = 17
_INPUTS = ("input_ids", "attention_mask")
# Any tokens do, but more than one row and one of them padded, so that no branch of the model is left out.
_TRACED_ROWS, _TRACED_TOKENS = 2, 8


class _Scores(nn.Module):
    """A model whose two inputs and one output stand in order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids_B_T: torch.Tensor, attention_mask_B_T: torch.Tensor) -> torch.Tensor:
        """What counts of the output; see :func:`tunesmith.export.torch_scores.scores_of`."""
        return scores_of(self.model(input_ids=input_ids_B_T, attention_mask=attention_mask_B_T))


class OnnxScores:
    """The graph in ONNX Runtime; graphs of one length get rows padded to it."""

    def __init__(self, session: Any, pad_token_id: int, tokens: int | None) -> None:
        self._session = session
        self._pad_token_id = pad_token_id
        self._tokens = tokens

    def scores(self, token_ids_T: Sequence[int]) -> NDArray[np.float32]:
        """As in :class:`tunesmith.export.runtime.ScoreRuntime`."""
        count = len(token_ids_T)
        ids = np.full((1, self._tokens or count), self._pad_token_id, dtype=np.int64)
        ids[0, :count] = token_ids_T
        mask = np.zeros_like(ids)
        mask[0, :count] = 1
        found = np.asarray(self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0][0], dtype=np.float32)
        return found[:count] if found.ndim > 1 else found[None]


def require_heads(source: Source, options: Options) -> None:
    """Refuse what cannot be, before anything is written.

    Raises:
        UsageError: ``usage.missing_extra``, ``export.provider``, ``export.target_precision``.
        ModelError: ``model.merge``.
        DataError: ``export.calibration``: a target needs rows for its scales, and there are too few.
    """
    require_onnx()
    require_provider(options.provider)
    require_merged(source, options)
    if options.target == VITISAI:
        require_rows(options.calibration, options.precision)


def write_heads(source: Source, folder: Path, options: Options) -> dict[str, Any]:
    """Write model.onnx, labels.json and the tokenizer.

    Raises:
        ModelError: ``export.onnx_trace``: the model cannot be traced.
        OutputError: The folder cannot be written or the disk is full.
    """
    tokens = static_tokens(source, options) if options.target == VITISAI else None
    plain = folder / FILE if options.precision == "fp32" and tokens is None else options.scratch / FILE
    options.say("tracing the model")
    with telling_output_errors(folder):
        source.tokenizer.save_pretrained(folder)
        _trace(_plain_model(source), plain, tokens, source)
    facts: dict[str, Any] = {"opset": _OPSET, "tokens": tokens}
    if tokens is not None:
        facts |= write_vitisai(plain, folder, source, options, tokens)
    elif options.precision == "int8":
        with telling_output_errors(folder):
            _quantize_weights(plain, folder / FILE)
    write_json(folder / LABELS, _labels(source))
    return facts


def _plain_model(source: Source) -> Any:
    """Without layers of PEFT or of fewer bits, which are no operations of ONNX."""
    if source.adapter is None:
        model = load_source(source)
        return dequantize(model) if source.quantization is not None else model
    base = load_base(source)
    if source.quantization is not None:
        base = dequantize(base)
    return with_adapter(base, source.adapter).merge_and_unload(safe_merge=True)


def _trace(model: Any, path: Path, tokens: int | None, source: Source) -> None:
    model.config.use_cache = False
    rows, length = (1, tokens) if tokens is not None else (_TRACED_ROWS, _TRACED_TOKENS)
    ids = torch.arange(rows * length).reshape(rows, length) % max(2, int(model.config.vocab_size) - 1)
    mask = torch.ones_like(ids)
    mask[-1, length - 2 :] = 0
    free = {} if tokens is not None else {name: {0: "rows", 1: "tokens"} for name in _INPUTS}
    try:
        with (
            warnings.catch_warnings(),
            quiet_libraries(),
            contextlib.redirect_stdout(io.StringIO()),
            torch.no_grad(),
        ):
            # The tracer warns of each branch and of being the older exporter.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Scores(model).eval(),
                (ids, mask),
                path,
                input_names=list(_INPUTS),
                output_names=["scores"],
                dynamic_axes=free,
                opset_version=_OPSET,
                dynamo=False,
            )
    except OSError:
        raise
    except Exception as error:
        raise ModelError(
            "the model cannot be written as an ONNX graph",
            code="export.onnx_trace",
            place=source.name,
            value=f"{type(error).__name__}: {str(error).strip()[:200]}",
            hint="export it to merged",
        ) from error


def _quantize_weights(plain: Path, path: Path) -> None:
    """Weights in eight bits; activations are quantized as they come, so nothing has to be calibrated."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with warnings.catch_warnings(), quiet_libraries():
        warnings.simplefilter("ignore")
        quantize_dynamic(plain, path, weight_type=QuantType.QInt8, per_channel=True)


def _labels(source: Source) -> dict[str, Any]:
    kind = "encoder" if source.head is None else source.head.kind
    meaning = {
        "sequence_classification": "scores [rows, labels] of each row",
        "token_classification": "scores [rows, tokens, labels] of each token",
        "question_answering": "scores [rows, tokens, 2] of each token as the first and the last of the answer",
        "encoder": "states [rows, tokens, numbers] of each token; their mean over the mask is the text's embedding",
    }[kind]
    labels = [] if source.head is None else list(source.head.labels)
    return {"format": 1, "kind": kind, "labels": labels, "output": meaning, "inputs": list(_INPUTS)}


@contextmanager
def open_heads(folder: Path, source: Source, options: Options) -> Iterator[ScoreRuntime]:
    """The graph in ONNX Runtime, on the provider that was asked for; those of VitisAI on the processor."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            os.fspath(folder / FILE), settings, providers=[require_provider(options.provider)]
        )
    except Exception as error:
        # ONNX Runtime has an error class of its own for each kind of wrong graph.
        raise ModelError(
            "ONNX Runtime does not take the graph", code="export.onnx_runtime", place=FILE, value=str(error)[:300]
        ) from error
    shape = session.get_inputs()[0].shape
    yield OnnxScores(session, int(source.tokenizer.pad_token_id or 0), shape[1] if isinstance(shape[1], int) else None)
