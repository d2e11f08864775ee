"""A whole report with believable numbers, for the tests of its renderings."""

from __future__ import annotations

import math
import random
from typing import Any

from tunesmith.evaluation.metrics import compare_paired, details, measure, score, score_losses

LABELS = ["billing", "cancel order", "card lost", "delivery", "login", "other", "refund", "warranty"]


def _answers(random_: random.Random, references: list[str], right: float, invalid: float) -> list[str]:
    answers = []
    for reference in references:
        draw = random_.random()
        if draw < right:
            answers.append(reference)
        else:
            answers.append("I am not sure" if draw > 1 - invalid else random_.choice(LABELS))
    return answers


def make_report(rows: int = 300, steps: int = 240) -> dict[str, Any]:
    random_ = random.Random(7)
    references = [random_.choice(LABELS) for _ in range(rows)]
    names = {"base": ("base model", 0.2, 0.4, 2.9), "few_shot": ("base, 8 examples", 0.45, 0.1, 2.2)}
    names["tuned"] = ("tuned (LoRA)", 0.84, 0.0, 0.61)
    systems, answers = [], {}
    for name, (label, right, invalid, loss) in names.items():
        answers[name] = _answers(random_, references, right, invalid)
        losses = score_losses([loss * 20 * random_.uniform(0.6, 1.4) for _ in references], [20] * rows)
        systems.append(
            {
                "name": name,
                "label": label,
                **losses,
                "metrics": score(["accuracy", "macro_f1"], answers[name], references, LABELS),
                "generation": {"tokens": rows * 5, "seconds": 41.3, "rows": rows},
                "details": details(["accuracy"], answers[name], references, LABELS),
            }
        )
    marks = {name: measure("accuracy", answers[name], references, LABELS) for name in answers}
    question = "Hello, I wrote to you last week about my parcel and nobody answered. Where is it, and who pays?"
    return {
        "format": 1,
        "run": "support-routing-lora",
        "created": "2026-11-24T05:40:12Z",
        "tunesmith": "0.1.0",
        "task": "classification",
        "objective": "sft",
        "technique": {"name": "lora", "rank": 16, "alpha": 32, "targets": "all-linear", "dropout": 0},
        "model": {
            "name": "smollm2-135m-instruct",
            "source": "wheel",
            "revision": "0.1.2",
            "parameters": 134_515_008,
            "licence": "Apache-2.0",
        },
        "primary_metric": "accuracy",
        "systems": systems,
        "verdict": compare_paired("accuracy", marks["base"], marks["tuned"]),
        "samples": [
            {
                "place": f"support_valid.jsonl:{row + 1}",
                "prompt": question,
                "reference": references[row],
                "answers": {name: answers[name][row] for name in answers},
                "scores": {name: float(marks[name].scores[row]) for name in answers},
            }
            for row in range(10)
        ],
        "curves": {
            "train": [
                {
                    "step": step,
                    "loss": 0.5 + 2.4 * math.exp(-step / 40) + random_.uniform(-0.15, 0.15),
                    "learning_rate": 2e-4 * min(1, step / 12) * (1 - step / (steps + 1)),
                    "gradient_norm": 1.0,
                    "tokens": step * 2048,
                    "seconds": step * 1.5,
                }
                for step in range(1, steps + 1)
            ],
            "validation": [
                {"step": step, "loss": 0.58 + 2.3 * math.exp(-step / 42)} for step in range(0, steps + 1, 40)
            ],
        },
        "cost": {
            "steps": steps,
            "epochs": 3.0,
            "trained_tokens": 61_440,
            "tokens": 491_520,
            "tokens_per_second": 312.4,
            "wall_seconds": {"total": 412.0, "audit": 3.1, "load": 4.6, "train": 352.0, "evaluate": 51.2},
            "peak_memory_bytes": 2_900_000_000,
            "trained_parameters": 4_884_480,
            "total_parameters": 139_399_488,
        },
        "data": {
            "train": {
                "source": "support_train.jsonl",
                "files": [{"name": "support_train.jsonl", "sha256": "3f" * 32}],
                "rows": 2400,
                "used_rows": 2398,
                "skipped_rows": 2,
                "tokens": 163_840,
                "trained_tokens": 20_480,
            },
            "validation": {
                "source": "support_valid.jsonl",
                "files": [{"name": "support_valid.jsonl", "sha256": "a0" * 32}],
                "rows": rows,
                "used_rows": rows,
                "skipped_rows": 0,
                "tokens": 20_100,
                "trained_tokens": 2_510,
            },
            "duplicates": 4,
            "overlap": 0,
            "split": "given file",
        },
        "audit": [
            {"name": "every row has trained tokens", "ok": True, "detail": "2,398 of 2,398 rows"},
            {"name": "the end of turn is trained", "ok": True, "detail": "<|im_end|> carries loss in every row"},
            {"name": "nothing trained is lost to truncation", "ok": False, "detail": "3 rows are longer than 512"},
        ],
        "learning_curve": [
            {"fraction": 0.25, "rows": 600, "loss": 1.02, "metric": 0.58},
            {"fraction": 0.5, "rows": 1200, "loss": 0.78, "metric": 0.74},
            {"fraction": 1.0, "rows": 2398, "loss": 0.61, "metric": 0.85},
        ],
        "resolved": {
            "train.learning_rate": {"value": 2e-4, "reason": "LoRA on fewer than 1 B parameters"},
            "train.epochs": {"value": 3, "reason": "2,398 rows fit into half an hour three times"},
            "train.tokens_per_step": {"value": 2048, "reason": "about 75 rows a step"},
            "precision": {"value": "float32", "reason": "bfloat16 was slower in the probe (151 against 238 GFLOP/s)"},
        },
        "environment": {
            "python": "3.11.9",
            "torch": "2.13.0+cpu",
            "transformers": "5.23.0",
            "peft": "0.21.2",
            "platform": "Linux",
            "processor": "x86_64",
            "cores": 2,
            "memory_bytes": 25_000_000_000,
            "precision": "float32",
            "threads": 2,
        },
        "seed": 0,
        "warnings": ["2 rows of support_train.jsonl were skipped: label missing"],
    }
