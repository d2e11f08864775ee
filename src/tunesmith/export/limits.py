"""How far an exported model may be from PyTorch before it is refused, for each form, with the reason.

Divergence is the mean Kullback-Leibler divergence in nats of the exported model's next-token probabilities from those
of PyTorch, over the first trained tokens of held-out rows. Where ``tie_nats`` is a number, greedy answers must be
equal; an answer may leave PyTorch's only where PyTorch itself finds both tokens likely within so many nats.

The numbers measured on the starter model stand in docs/results.md; a limit is some times what was measured there, so
that other models pass and an export with a wrong layout, whose divergence is several nats, does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """One form's limit; ``tie_nats`` None: answers may differ."""

    divergence_nats: float
    tie_nats: float | None
    reason: str


@dataclass(frozen=True)
class ScoreLimit:
    """A limit for heads and encoders.

    ``difference`` of scores is told in parts of their spread over all rows: of the largest one where numbers are the
    same (``of_largest``), else of the mean, which does not grow with the number of rows. ``same_labels`` is the share
    of labels that must be the same, and for states of encoders the least cosine.
    """

    difference: float
    same_labels: float
    reason: str
    of_largest: bool = False


_SAME_NUMBERS = "the same float32 numbers, summed in another order"
_HALF = "numbers of 16 bits, and llama.cpp keeps the cache in float16"

LIMITS: Mapping[tuple[str, str], Limit] = {
    ("adapter", "float32"): Limit(1e-6, 1e-3, "the same numbers in the same library"),
    ("merged", "float32"): Limit(1e-6, 1e-3, _SAME_NUMBERS),
    ("merged", "bfloat16"): Limit(0.02, None, "weights of 8 significant bits, so that answers may differ"),
    ("merged", "float16"): Limit(0.001, 0.02, "weights of 11 significant bits"),
    ("gguf", "f32"): Limit(0.0005, 0.03, "float32 weights, but llama.cpp keeps the cache in float16"),
    ("gguf", "f16"): Limit(0.0005, 0.03, _HALF),
    ("gguf", "bf16"): Limit(0.02, None, "weights of 8 significant bits, so that answers may differ"),
    ("gguf", "q8_0"): Limit(0.02, None, "blocks of 32 weights share a scale, 8 bits each; so do activations"),
    ("gguf", "q5_1"): Limit(0.1, None, "5 bits a weight"),
    ("gguf", "q5_0"): Limit(0.1, None, "5 bits a weight"),
    ("gguf", "q4_1"): Limit(0.25, None, "4 bits a weight, which costs small models most"),
    ("gguf", "q4_0"): Limit(0.25, None, "4 bits a weight, which costs small models most"),
    ("onnx", "fp32"): Limit(1e-5, 2e-3, _SAME_NUMBERS),
    ("onnx", "int8"): Limit(0.02, None, "8 bits a weight, activations in 8 bits too"),
    ("onnx", "int4"): Limit(0.25, None, "4 bits a weight, which costs small models most"),
    ("onnx-adapter", "fp32"): Limit(1e-5, 2e-3, _SAME_NUMBERS),
    ("onnx-adapter", "int4"): Limit(0.25, None, "4 bits a weight of the base; adapters stay float32"),
}

SCORE_LIMITS: Mapping[tuple[str, str], ScoreLimit] = {
    ("adapter", "float32"): ScoreLimit(1e-4, 1.0, "the same numbers in the same library", of_largest=True),
    ("merged", "float32"): ScoreLimit(1e-3, 1.0, _SAME_NUMBERS, of_largest=True),
    ("merged", "bfloat16"): ScoreLimit(0.1, 0.9, "weights of 8 significant bits"),
    ("merged", "float16"): ScoreLimit(0.02, 0.95, "weights of 11 significant bits"),
    ("onnx", "fp32"): ScoreLimit(1e-3, 1.0, _SAME_NUMBERS, of_largest=True),
    ("onnx", "int8"): ScoreLimit(0.25, 0.75, "8 bits a weight, and activations in 8 bits with a scale for each tensor"),
    ("onnx", "qdq-int8"): ScoreLimit(0.4, 0.6, "8 bits for weights and activations, scales fixed by calibration"),
}
