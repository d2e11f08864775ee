"""What the training benchmark trains on: data sets of different shapes, each as recipe settings and rows a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODEL = "smollm2-135m-instruct"
RANK, ALPHA, LEARNING_RATE = 16, 32, 2e-4


@dataclass(frozen=True)
class Workload:
    """Rows of a data set (relative to the data folder) under a task, and how many of them a step learns from.

    Sides that pack rows themselves get packs of ``pack_tokens``, ``packs_per_step`` of them. The peers take the rows of
    a step in ``batches_per_step`` parts, since they need more memory than the machine of 24 GB has for all at once.
    """

    about: str
    data: str
    rows_per_step: int
    recipe: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    pack_tokens: int = 1024
    packs_per_step: int = 2
    batches_per_step: int = 1

    @property
    def is_pairs(self) -> bool:
        """Whether rows are pairs of answers."""
        return "objective" in self.recipe

    def full_recipe(self, data_folder: Path) -> dict[str, Any]:
        """The recipe with LoRA of the size that all sides use."""
        return {
            "model": MODEL,
            "data": {"train": str(data_folder / self.data), "validation": 0.02, **self.recipe.get("data", {})},
            "technique": {"name": "lora", "rank": RANK, "alpha": ALPHA, "targets": "all-linear"},
            "train": {"learning_rate": LEARNING_RATE, **self.train},
            **{key: value for key, value in self.recipe.items() if key != "data"},
        }


WORKLOADS: Mapping[str, Workload] = {
    "conversations": Workload("conversations of mixed length (GSM8K)", "math/gsm8k_train.jsonl", 8),
    "instruction-16": Workload(
        "short rows under one long instruction (banking77)",
        "classification/banking77_train.csv",
        16,
        pack_tokens=1304,
        packs_per_step=8,
        batches_per_step=4,
    ),
    "instruction-48": Workload(
        "the same, 48 rows a step",
        "classification/banking77_train.csv",
        48,
        pack_tokens=1304,
        packs_per_step=24,
        batches_per_step=12,
    ),
    "documents-questions": Workload(
        "several questions on one document (XQuAD)", "qa/xquad_en.jsonl", 16, packs_per_step=4, batches_per_step=2
    ),
    "pairs": Workload(
        "preference pairs (DPO)",
        "preference/instructions_chosen_rejected.jsonl",
        8,
        {"objective": {"name": "dpo", "beta": 0.1}},
        batches_per_step=2,
    ),
    "long-documents": Workload(
        "long documents, cut at 2,048 tokens (policies of a web site)",
        "domain_legal/site_policies.jsonl",
        2,
        {"task": "text", "data": {"on_long_rows": "truncate", "validation": 0.1}},
        {"max_length": 2048},
        pack_tokens=2048,
        packs_per_step=2,
        batches_per_step=2,
    ),
}
