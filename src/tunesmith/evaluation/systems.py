"""One contestant measured: losses of held-out rows and answers to their questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunesmith.evaluation.held_out import LabelLosses, Layout, RowLosses, held_out_losses
from tunesmith.evaluation.questions import Asked
from tunesmith.generation import Decoding, generate

OnProgress = Callable[[int, int], None]

# Bounds the key/value cache of a batch of answers.
TOKENS_PER_BATCH = 16_384


@dataclass(frozen=True)
class Measured:
    """One system's results as plain data, so that a resumed run need not measure again.

    ``loss_seconds`` and ``answer_seconds`` are wall time; ``answer_tokens`` counts generated tokens.
    """

    name: str
    label: str
    losses: RowLosses
    answers: tuple[str, ...]
    answer_tokens: int
    loss_seconds: float
    answer_seconds: float

    @property
    def seconds(self) -> float:
        """Wall time of everything."""
        return self.loss_seconds + self.answer_seconds

    def to_json(self) -> dict[str, Any]:
        """As plain data; :func:`measured_from_json` reads it."""
        return asdict(self)


def measured_from_json(data: Mapping[str, Any]) -> Measured:
    """Read what :meth:`Measured.to_json` wrote."""
    losses = RowLosses(tuple(data["losses"]["loss_sums_B"]), tuple(data["losses"]["counts_B"]))
    return Measured(**{**data, "losses": losses, "answers": tuple(data["answers"])})


@dataclass(frozen=True)
class Ruler:
    """How every system is measured alike."""

    tokenizer: Any
    label_losses: LabelLosses
    layout: Layout
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    on_progress: OnProgress
    should_stop: Callable[[], bool]


def measure_system(name: str, label: str, model: Any, asked: Asked, ruler: Ruler) -> Measured:
    """Measure one system; the model is put into eval mode.

    Raises:
        Stopped: The user asked the run to stop.
        DataError: A prompt leaves no room in the model's context.
    """
    model.eval()
    total = len(asked.rows) + len(asked.prompts)
    started = time.monotonic()
    losses = held_out_losses(
        model,
        asked.rows,
        ruler.label_losses,
        ruler.layout,
        on_progress=lambda done: ruler.on_progress(done, total),
        should_stop=ruler.should_stop,
    )
    after_losses = time.monotonic()
    texts, tokens = _answers(model, asked.prompts, ruler, already=len(asked.rows), total=total)
    return Measured(
        name=name,
        label=label,
        losses=losses,
        answers=texts,
        answer_tokens=tokens,
        loss_seconds=after_losses - started,
        answer_seconds=time.monotonic() - after_losses,
    )


def _answers(
    model: Any, prompts: Sequence[Sequence[int]], ruler: Ruler, *, already: int, total: int
) -> tuple[tuple[str, ...], int]:
    if not prompts or not ruler.max_new_tokens:
        return (), 0
    answers = generate(
        model,
        ruler.tokenizer,
        prompts,
        Decoding(max_new_tokens=ruler.max_new_tokens, stop_token_ids=ruler.stop_token_ids),
        tokens_per_batch=TOKENS_PER_BATCH,
        on_progress=lambda done, _: ruler.on_progress(already + done, total),
        should_stop=ruler.should_stop,
    )
    return tuple(answer.text.strip() for answer in answers), sum(len(answer.token_ids) for answer in answers)
