"""Heads and encoders in ONNX Runtime: any number of rows, padding that changes nothing, fixed shapes for VitisAI."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from tiny_models import tiny_encoder_folder, tiny_model_folder

from tunesmith.catalog.heads import Head, HeadKind
from tunesmith.errors import DataError, ModelError, UsageError
from tunesmith.export.form import Options
from tunesmith.export.onnx_heads import require_heads, write_heads
from tunesmith.export.onnx_providers import require_provider
from tunesmith.export.source import Source, kind_of, load_source
from tunesmith.export.torch_scores import TorchScores
from tunesmith.models.load import load_tokenizer

ROWS = [list(range(3 + at, 12 + 2 * at)) for at in range(6)]


def source(folder: Path, kind: HeadKind | None) -> Source:
    head = None if kind is None else Head(kind, () if kind == "question_answering" else ("a", "b", "c"), 3)
    return Source("one", folder, None, load_tokenizer(folder), kind_of(folder, head), head, context_length=512)


def written(one: Source, folder: Path, **options: object) -> Path:
    folder.mkdir()
    scratch = folder.parent / "scratch"
    scratch.mkdir()
    write_heads(one, folder, Options(scratch=scratch, calibration=ROWS, **{"precision": "fp32", **options}))  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("bert", None),
        ("bert", "token_classification"),
        ("distilbert", "sequence_classification"),
        ("llama", "sequence_classification"),
        ("qwen2", "question_answering"),
    ],
)
def test_padded_rows_have_the_scores_of_rows_alone(family: str, kind: HeadKind | None, tmp_path: Path) -> None:
    make = tiny_encoder_folder if family in ("bert", "distilbert") else None
    base = make(tmp_path / "base", family=family) if make else tiny_model_folder(family, tmp_path / "base")
    one = source(base, kind)
    folder = written(one, tmp_path / "out")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    longest = max(map(len, ROWS))
    ids, mask = np.zeros((len(ROWS), longest), dtype=np.int64), np.zeros((len(ROWS), longest), dtype=np.int64)
    for at, row in enumerate(ROWS):
        ids[at, : len(row)], mask[at, : len(row)] = row, 1
    (together,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    known = TorchScores(load_source(one))
    for at, row in enumerate(ROWS):
        mine = together[at][: len(row)] if together[at].ndim > 1 else together[at][None]
        np.testing.assert_allclose(mine, known.scores(row), atol=2e-4)
    said = json.loads((folder / "labels.json").read_text())
    assert said["labels"] == ([] if one.head is None else list(one.head.labels))
    assert said["kind"] == (kind or "encoder")


def test_vitisai_gets_one_shape_and_scales_that_are_powers_of_two(tmp_path: Path) -> None:
    one = source(tiny_encoder_folder(tmp_path / "base"), "sequence_classification")
    folder = written(one, tmp_path / "out", precision="qdq-int8", target="vitisai", longest=20)
    model = onnx.load(folder / "model.onnx")
    shapes = [[size.dim_value for size in value.type.tensor_type.shape.dim] for value in model.graph.input]
    assert shapes == [[1, 32], [1, 32]]
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scales = [
        float(weights[node.input[1]])
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[1] in weights
    ]
    assert len(scales) > 5
    assert all(scale == 2.0 ** round(np.log2(scale)) for scale in scales)
    options = json.loads((folder / "vitisai_provider_options.json").read_text())
    assert set(options) == {"config_file", "xclbin", "cache_dir", "cache_key"}
    assert "NOT verified" in (folder / "README.md").read_text()


def test_a_target_without_rows_or_with_long_ones_is_refused(tmp_path: Path) -> None:
    one = source(tiny_encoder_folder(tmp_path / "base"), "sequence_classification")
    with pytest.raises(DataError, match="too few"):
        require_heads(one, Options("qdq-int8", tmp_path, target="vitisai"))
    with pytest.raises(DataError, match="longer than a graph"):
        written(one, tmp_path / "out", precision="qdq-int8", target="vitisai", longest=600)
    with pytest.raises(UsageError, match="takes one precision"):
        require_heads(one, Options("int8", tmp_path, target="vitisai", calibration=ROWS))


def test_a_provider_that_is_not_here_is_refused_with_those_that_are() -> None:
    assert require_provider("cpu") == "CPUExecutionProvider"
    with pytest.raises(UsageError) as caught:
        require_provider("qnn")
    assert "present: cpu" in (caught.value.hint or "")


def test_encoders_with_decoders_are_refused(tmp_path: Path) -> None:
    from tiny_models import tiny_seq2seq_folder

    with pytest.raises(ModelError) as caught:
        kind_of(tiny_seq2seq_folder(tmp_path), None)
    assert caught.value.code == "export.encoder_decoder"
