"""Compare a model that writes with PyTorch: probabilities on held-out rows, greedy answers, tokens of texts, speed.

PyTorch is asked first and let go of, so that two models are never in memory at once.

Shape suffixes: T tokens of a row, L places of a row, K likeliest tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import Problem
from tunesmith.export.limits import Limit
from tunesmith.export.runtime import Likeliest, TextRuntime
from tunesmith.export.torch_text import TorchText

# Places of a row that are compared: the first ones that are trained, where an answer begins.
MOST_PLACES = 16
# Probability that no token of the likeliest holds; below this it is rounding.
_NO_REST = 1e-6
_TIE_CANDIDATES = 8
# How fast a model writes is measured on so many beginnings of so many tokens, for so many tokens each.
_SPEED_PROMPTS, _SPEED_PROMPT, _SPEED_TOKENS = 4, 8, 32


@dataclass(frozen=True)
class TextRows:
    """What is asked: rows with their places, prompts, and texts for the tokenizer."""

    rows: Sequence[tuple[Sequence[int], Sequence[int]]]
    prompts: Sequence[Sequence[int]]
    texts: Sequence[str]
    max_new_tokens: int
    stop_token_ids: Sequence[int]

    @property
    def longest(self) -> int:
        """Tokens of the longest text with its answer."""
        rows = [len(tokens_T) for tokens_T, _ in self.rows]
        prompts = [len(prompt_T) + self.max_new_tokens for prompt_T in self.prompts]
        return max([*rows, *prompts, 1])


@dataclass(frozen=True)
class TextReference:
    """What PyTorch says.

    ``candidates`` are, for each prompt and each token of its answer, the likeliest tokens there with their log
    probabilities.
    """

    rows: Sequence[NDArray[np.float32]]
    answers: Sequence[Sequence[int]]
    candidates: Sequence[Sequence[dict[int, float]]]
    tokens: Sequence[Sequence[int]]
    tokens_per_second: float | None


@dataclass(frozen=True)
class Answered:
    """Greedy answers of a model, and how fast it writes; None where rows are too short to tell."""

    answers: Sequence[Sequence[int]]
    tokens_per_second: float | None


def ask_pytorch(model: TorchText, rows: TextRows) -> TextReference:
    """Everything that other runtimes are compared with."""
    found = [model.log_probabilities(tokens, places).astype(np.float32) for tokens, places in rows.rows]
    answered = answer(model, rows)
    candidates = []
    for prompt, said in zip(rows.prompts, answered.answers, strict=True):
        whole = [*prompt, *said]
        # Also behind the last token: there the answer ended, and another model may go on.
        places = range(len(prompt) - 1, len(whole))
        candidates.append(_candidates(model.log_probabilities(whole, places)))
    tokens = [model.encode(text) for text in rows.texts]
    return TextReference(found, answered.answers, candidates, tokens, answered.tokens_per_second)


def answer(model: TextRuntime, rows: TextRows) -> Answered:
    """Answer the prompts one after the other, and then see how fast the model writes."""
    said = [model.continue_greedily(prompt, rows.max_new_tokens, rows.stop_token_ids) for prompt in rows.prompts]
    # Reading a long prompt takes as long as writing many tokens, so short beginnings are continued for the speed.
    beginnings = [list(prompt[:_SPEED_PROMPT]) for prompt in rows.prompts[:_SPEED_PROMPTS]]
    room = min(_SPEED_TOKENS, rows.longest - _SPEED_PROMPT)
    written, started = 0, time.monotonic()
    for beginning in beginnings if room > 0 else ():
        written += len(model.continue_greedily(beginning, room, ()))
    seconds = time.monotonic() - started
    return Answered(said, written / seconds if written and seconds > 0 else None)


def compare_text(
    reference: TextReference, exported: TextRuntime, rows: TextRows, limit: Limit
) -> tuple[dict[str, Any], list[Problem], Answered]:
    """Ask the exported model the same, and say how it differs.

    Returns:
        The differences as plain data, what is beyond the limit, and the exported model's answers.
    """
    divergences: list[NDArray[np.float64]] = []
    same_first: list[NDArray[np.bool_]] = []
    for (tokens, places), known_L_V in zip(rows.rows, reference.rows, strict=True):
        found = exported.likeliest(tokens, places)
        divergences.append(divergence(known_L_V, found))
        same_first.append(known_L_V.argmax(axis=-1) == found.ids_L_K[:, 0])
    answered = answer(exported, rows)
    different, ties = _differing(reference, answered.answers, rows, limit.tie_nats)
    wrong_tokens = [
        at
        for at, (text, known) in enumerate(zip(rows.texts, reference.tokens, strict=True))
        if exported.encode(text) != list(known)
    ]
    all_divergences = np.concatenate(divergences) if divergences else np.zeros(0)
    facts: dict[str, Any] = {
        "rows": len(rows.rows),
        "places": int(all_divergences.size),
        "divergence_nats": {
            "mean": float(all_divergences.mean()) if all_divergences.size else None,
            "largest": float(all_divergences.max()) if all_divergences.size else None,
            "limit_of_mean": limit.divergence_nats,
        },
        "same_likeliest_token": float(np.concatenate(same_first).mean()) if same_first else None,
        "greedy": {
            "prompts": len(rows.prompts),
            "same": len(rows.prompts) - len(different) - len(ties),
            "ties": len(ties),
            "different": len(different),
            "must_be_same": limit.tie_nats is not None,
            "tie_nats": limit.tie_nats,
        },
        "tokenizer": {"texts": len(rows.texts), "same": len(rows.texts) - len(wrong_tokens)},
        "tokens_per_second": {"exported": answered.tokens_per_second, "pytorch": reference.tokens_per_second},
        "reason_of_limit": limit.reason,
    }
    return facts, _problems(facts, limit), answered


def divergence(known_L_V: NDArray[Any], found: Likeliest) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of the found probabilities from the known ones at each place, in nats.

    The tokens that the exported model finds likeliest are compared one by one, all others as one: that is never more
    than the divergence over the whole vocabulary.
    """
    known_L_K = np.take_along_axis(known_L_V, np.maximum(found.ids_L_K, 0), axis=-1).astype(np.float64)
    there_L_K = found.ids_L_K >= 0
    p_L_K = np.where(there_L_K, np.exp(known_L_K), 0.0)
    q_L_K = np.where(there_L_K, np.exp(found.log_probabilities_L_K), 0.0)
    each_L_K = np.where(p_L_K > 0, p_L_K * (known_L_K - found.log_probabilities_L_K), 0.0)
    rest_p_L, rest_q_L = (np.maximum(1 - one.sum(axis=-1), _NO_REST) for one in (p_L_K, q_L_K))
    result: NDArray[np.float64] = np.where(there_L_K, each_L_K, 0.0).sum(axis=-1) + rest_p_L * np.log(
        rest_p_L / rest_q_L
    )
    return result


def _candidates(log_probabilities_L_V: NDArray[Any]) -> list[dict[int, float]]:
    count = min(_TIE_CANDIDATES, log_probabilities_L_V.shape[-1])
    ids_L_K = np.argpartition(-log_probabilities_L_V, count - 1, axis=-1)[:, :count]
    return [
        {int(token): float(line[token]) for token in ids}
        for ids, line in zip(ids_L_K, log_probabilities_L_V, strict=True)
    ]


def _differing(
    reference: TextReference, answers: Sequence[Sequence[int]], rows: TextRows, tie_nats: float | None
) -> tuple[list[int], list[int]]:
    """Prompts whose answers differ, and those whose answers part at a tie."""
    different: list[int] = []
    ties: list[int] = []
    for at, (known, said) in enumerate(zip(reference.answers, answers, strict=True)):
        if list(known) == list(said):
            continue
        parts = next(
            (place for place, (one, other) in enumerate(zip(known, said, strict=False)) if one != other),
            min(len(known), len(said)),
        )
        likely = reference.candidates[at][min(parts, len(reference.candidates[at]) - 1)]
        others = [said[parts]] if parts < len(said) else list(rows.stop_token_ids)
        gap = max(likely.values()) - max((likely.get(token, float("-inf")) for token in others), default=float("-inf"))
        (ties if tie_nats is not None and gap <= tie_nats else different).append(at)
    return different, ties


def _problems(facts: dict[str, Any], limit: Limit) -> list[Problem]:
    found = []
    mean = facts["divergence_nats"]["mean"]
    if mean is None or not mean <= limit.divergence_nats:
        value = "nothing could be compared" if mean is None else f"{mean:.3g} nats, at most {limit.divergence_nats:g}"
        found.append(Problem("export.diverges", "next-token probabilities differ too much from PyTorch's", value=value))
    greedy = facts["greedy"]
    if greedy["must_be_same"] and greedy["different"]:
        value = f"{greedy['different']} of {greedy['prompts']}"
        found.append(Problem("export.answers", "greedy answers differ from PyTorch's", value=value))
    tokenizer = facts["tokenizer"]
    if tokenizer["same"] < tokenizer["texts"]:
        value = f"{tokenizer['texts'] - tokenizer['same']} of {tokenizer['texts']} texts"
        found.append(Problem("export.tokenizer", "the exported tokenizer makes other tokens", value=value))
    return found
