"""Facts from which ``auto`` values are resolved and impossible wishes refused. Whoever knows them hands them in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ModelKind = Literal["causal", "encoder", "encoder_decoder"]


@dataclass(frozen=True)
class DataFacts:
    """What the training data is, in tokens of the model.

    ``shared_prefix_tokens`` are untrained tokens that all rows begin with; ``group_prefix_tokens`` are the most that
    rows of one group do, where the recipe keeps groups together, and ``group_shared_tokens`` all that rows have in
    common with one of their group before them. ``default_metrics`` and ``answer_tokens`` (room for
    the longest answer, 0 where nothing is written) come from the task. ``has_context`` says that questions come with a
    text that holds the answer.
    """

    task: str
    shape: str
    rows: int
    validation_rows: int
    tokens: int
    trained_tokens: int
    longest_row: int
    shared_prefix_tokens: int = 0
    group_prefix_tokens: int = 0
    group_shared_tokens: int = 0
    labels: int = 0
    default_metrics: tuple[str, ...] = ()
    answer_tokens: int = 0
    has_context: bool = True

    @property
    def mean_row_tokens(self) -> float:
        """Tokens of a row on average."""
        return self.tokens / max(1, self.rows)

    @property
    def own_row_tokens(self) -> float:
        """Tokens of a row on average that it does not share with all others."""
        return max(1.0, self.mean_row_tokens - self.shared_prefix_tokens)


@dataclass(frozen=True)
class ModelFacts:
    """What the model is, from its config and tokenizer alone.

    ``context_length`` is None where the config is silent. ``kind`` is ``causal`` for a model that continues texts,
    ``encoder`` for one that reads them whole, ``encoder_decoder`` for one that reads a text and writes another.
    """

    name: str
    parameters: int
    context_length: int | None
    has_chat_template: bool
    model_type: str
    kind: ModelKind
    hidden_size: int
    layers: int
    vocabulary_size: int


@dataclass(frozen=True)
class HostFacts:
    """What this machine is.

    ``fast_dtype`` won a short race of matrix products at ``matmul_flops_per_second``. ``device_memory_bytes`` is what
    one GPU has; without one, processes share ``memory_bytes``. ``processor`` names the processor or GPU.
    ``matmul_speeds`` are those of every type that was measured.
    """

    cores: int
    memory_bytes: int
    device: Literal["cpu", "cuda"] = "cpu"
    fast_dtype: Literal["float32", "bfloat16"] = "float32"
    matmul_flops_per_second: float | None = None
    device_memory_bytes: int | None = None
    processor: str = "This machine"
    matmul_speeds: Mapping[Literal["float32", "bfloat16"], float] | None = None

    def memory_of_each(self, devices: int) -> float:
        """Bytes for each of so many devices."""
        return self.memory_bytes / devices if self.device_memory_bytes is None else float(self.device_memory_bytes)
