"""How much of what models write stands in the training rows word for word, for tasks whose answers should be new."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tunesmith.evaluation.metrics.memorisation import NGRAM_WORDS, copied
from tunesmith.evaluation.questions import HeldOut
from tunesmith.evaluation.systems import Measured
from tunesmith.formats.examples import Document
from tunesmith.pipeline.prepare import Prepared

TASKS = ("creative",)
REFERENCES = "references"


def memorisation(prepared: Prepared, systems: Sequence[Measured], held_out: HeldOut) -> dict[str, dict[str, Any]]:
    """For each system's answers, and for the held-out references themselves: what they share with the training rows.

    The references say how much two texts of this kind have in common anyway. Empty for other tasks, and where nothing
    is answered.

    Returns:
        By name, and :data:`REFERENCES`: ``share`` of the stretches of ``ngram_words`` words that stand in a training
        row, and ``longest_words``, the longest such stretch.
    """
    answering = [system for system in systems if system.answers]
    if prepared.task.name not in TASKS or not answering:
        return {}
    texts = {system.name: list(system.answers) for system in answering}
    texts[REFERENCES] = [question.shown_reference for question in held_out.questions]
    found = copied([text for group in texts.values() for text in group], _learned(prepared))
    results: dict[str, dict[str, Any]] = {}
    for name, group in texts.items():
        own, found = found[: len(group)], found[len(group) :]
        results[name] = {
            "share": sum(one.found for one in own) / max(1, sum(one.ngrams for one in own)),
            "longest_words": max(one.longest_words for one in own),
            "ngram_words": NGRAM_WORDS,
        }
    return results


def _learned(prepared: Prepared) -> Iterator[str]:
    """What the training rows teach to write."""
    for _, example in prepared.data.train():
        item = prepared.task.training(example)
        if isinstance(item, Document):
            yield item.text
        else:
            yield from (message.content for message in item.messages if message.role == "assistant")
