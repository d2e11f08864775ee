"""Compare a model with a head, or an encoder, with PyTorch: scores and labels on held-out rows, and speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import Problem
from tunesmith.export.limits import ScoreLimit
from tunesmith.export.runtime import ScoreRuntime

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Scored:
    """Scores of each row, and how fast they came."""

    scores: Sequence[Scores]
    tokens_per_second: float


def ask_scores(model: ScoreRuntime, rows: Sequence[Sequence[int]]) -> Scored:
    """Scores of the rows one after the other."""
    started = time.monotonic()
    scores = [model.scores(row) for row in rows]
    seconds = time.monotonic() - started
    return Scored(scores, sum(map(len, rows)) / seconds if seconds > 0 else 0.0)


def compare_scores(
    reference: Scored, exported: Scored, limit: ScoreLimit, *, has_labels: bool
) -> tuple[dict[str, Any], list[Problem]]:
    """How scores differ, and what is beyond the limit.

    Differences are told in parts of the spread (standard deviation) of PyTorch's scores over all rows, so that one
    limit serves heads of any scale. Without labels, as for states of an encoder, cosines stand for the labels.
    """
    known = np.concatenate([one.reshape(-1) for one in reference.scores]) if reference.scores else np.zeros(0)
    spread = float(known.std()) or 1.0
    gaps = [np.abs(one - other) for one, other in zip(reference.scores, exported.scores, strict=True)]
    largest = max((float(gap.max()) for gap in gaps), default=float("nan"))
    mean = float(np.concatenate([gap.reshape(-1) for gap in gaps]).mean()) if gaps else float("nan")
    facts: dict[str, Any] = {
        "rows": len(reference.scores),
        "scores": {
            "largest_difference": largest,
            "mean_difference": mean,
            "spread": spread,
            "limited": "largest" if limit.of_largest else "mean",
            "limit": limit.difference * spread,
        },
        "tokens_per_second": {"exported": exported.tokens_per_second, "pytorch": reference.tokens_per_second},
        "reason_of_limit": limit.reason,
    }
    if has_labels:
        facts["same_labels"] = {"share": _same_labels(reference.scores, exported.scores), "least": limit.same_labels}
    else:
        facts["cosine"] = {"least": _least_cosine(reference.scores, exported.scores), "limit": limit.same_labels}
    return facts, _problems(facts)


def _same_labels(one: Sequence[Scores], other: Sequence[Scores]) -> float:
    same = [
        (first.argmax(axis=-1) == second.argmax(axis=-1)).reshape(-1) for first, second in zip(one, other, strict=True)
    ]
    return float(np.concatenate(same).mean()) if same else 0.0


def _least_cosine(one: Sequence[Scores], other: Sequence[Scores]) -> float:
    found = [
        float((first.mean(axis=0) @ second.mean(axis=0)) / _lengths(first.mean(axis=0), second.mean(axis=0)))
        for first, second in zip(one, other, strict=True)
    ]
    return min(found, default=0.0)


def _lengths(first: Scores, second: Scores) -> float:
    return float(np.linalg.norm(first) * np.linalg.norm(second)) or 1.0


def _problems(facts: dict[str, Any]) -> list[Problem]:
    found = []
    scores = facts["scores"]
    difference = scores[f"{scores['limited']}_difference"]
    if not difference <= scores["limit"]:
        value = f"{difference:.3g} ({scores['limited']}), at most {scores['limit']:.3g}"
        found.append(Problem("export.diverges", "scores differ too much from PyTorch's", value=value))
    labels = facts.get("same_labels")
    if labels is not None and labels["share"] < labels["least"]:
        value = f"{labels['share']:.3f} are the same, at least {labels['least']:g}"
        found.append(Problem("export.answers", "labels differ from PyTorch's", value=value))
    cosine = facts.get("cosine")
    if cosine is not None and cosine["least"] < cosine["limit"] - 1e-5:
        value = f"a cosine of {cosine['least']:.4f}, at least {cosine['limit']:g}"
        found.append(Problem("export.diverges", "states of texts point elsewhere than PyTorch's", value=value))
    return found
