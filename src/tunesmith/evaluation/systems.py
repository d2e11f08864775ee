"""One contestant measured: losses of held-out rows and answers to their questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tunesmith.evaluation.held_out import Item, LabelLosses, Layout, RowLosses, held_out_losses
from tunesmith.evaluation.questions import Asked
from tunesmith.evaluation.robustness import ChoiceScores, choice_scores_from_json
from tunesmith.generation import Decoding, generate

OnProgress = Callable[[int, int], None]
ShouldStop = Callable[[], bool]

# Bounds the key/value cache of a batch of answers.
TOKENS_PER_BATCH = 16_384


@dataclass(frozen=True)
class Measured:
    """One system's results as plain data, so that a resumed run need not measure again.

    ``loss_seconds`` and ``answer_seconds`` are wall time; ``answer_tokens`` counts generated tokens;
    ``pair_scores_B`` is the mean log probability a token of each pair's chosen and rejected answer; of a rated answer,
    one of the two. ``general`` and
    ``choices`` are what was measured beside the held-out rows, see :mod:`tunesmith.evaluation.beside`; ``otherwise``
    are answers to the same questions asked otherwise, None where a kind of change leaves a question as it is.
    ``tokens_read`` and ``tokens_written`` are those of all rows, prompts and answers, however they were asked.
    """

    name: str
    label: str
    losses: RowLosses
    answers: tuple[str, ...]
    answer_tokens: int
    loss_seconds: float
    answer_seconds: float
    pair_scores_B: tuple[tuple[float | None, float | None], ...] = ()
    general: RowLosses | None = None
    choices: ChoiceScores | None = None
    beside_seconds: float = 0.0
    otherwise: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    tokens_read: int = 0
    tokens_written: int = 0

    @property
    def seconds(self) -> float:
        """Wall time of everything."""
        return self.loss_seconds + self.answer_seconds + self.beside_seconds

    def to_json(self) -> dict[str, Any]:
        """As plain data; :func:`measured_from_json` reads it."""
        return asdict(self)


def measured_from_json(data: Mapping[str, Any]) -> Measured:
    """Read what :meth:`Measured.to_json` wrote."""
    pairs = tuple((chosen, rejected) for chosen, rejected in data.get("pair_scores_B", ()))
    general, choices = data.get("general"), data.get("choices")
    return Measured(
        **{
            **data,
            "losses": _row_losses(data["losses"]),
            "answers": tuple(data["answers"]),
            "pair_scores_B": pairs,
            "general": None if general is None else _row_losses(general),
            "choices": None if choices is None else choice_scores_from_json(choices),
            "otherwise": {kind: tuple(answers) for kind, answers in data.get("otherwise", {}).items()},
        }
    )


def _row_losses(data: Mapping[str, Any]) -> RowLosses:
    return RowLosses(tuple(data["loss_sums_B"]), tuple(data["counts_B"]), tuple(data.get("hits_B", ())))


@dataclass(frozen=True)
class Answers:
    """What a system said: a text for each question, generated tokens, and for pairs of answers how likely each was."""

    texts: tuple[str, ...] = ()
    tokens: int = 0
    pair_scores_B: tuple[tuple[float | None, float | None], ...] = ()


@dataclass(frozen=True)
class Ruler:
    """How every system is measured alike.

    ``losses`` measures items, ``answers`` what is asked beside them; both get a model in eval mode, say how many of
    their rows are done, and raise :class:`tunesmith.errors.Stopped` when ``should_stop`` says so.
    """

    losses: Callable[[Any, Sequence[Item], Callable[[int], None], ShouldStop], RowLosses]
    answers: Callable[[Any, Asked, Callable[[int], None], ShouldStop], Answers]
    on_progress: OnProgress
    should_stop: ShouldStop


def measure_system(name: str, label: str, model: Any, asked: Asked, ruler: Ruler) -> Measured:
    """Measure one system; the model is put into eval mode.

    Raises:
        Stopped: The user asked the run to stop.
        DataError: A prompt leaves no room in the model's context.
    """
    model.eval()
    items = len(asked.items)
    total = items + (len(asked.prompts) or len(asked.rows))
    started = time.monotonic()
    losses = ruler.losses(model, asked.items, lambda done: ruler.on_progress(done, total), ruler.should_stop)
    after_losses = time.monotonic()
    answers = ruler.answers(model, asked, lambda done: ruler.on_progress(items + done, total), ruler.should_stop)
    return Measured(
        name=name,
        label=label,
        losses=losses,
        answers=answers.texts,
        answer_tokens=answers.tokens,
        pair_scores_B=answers.pair_scores_B,
        loss_seconds=after_losses - started,
        answer_seconds=time.monotonic() - after_losses,
        tokens_read=asked.tokens,
        tokens_written=answers.tokens,
    )


def causal_ruler(
    tokenizer: Any,
    layout: Layout,
    label_losses: LabelLosses,
    *,
    max_new_tokens: int,
    stop_token_ids: tuple[int, ...],
    on_progress: OnProgress,
    should_stop: ShouldStop,
) -> Ruler:
    """Models that continue texts: the loss of what they should write, and what they do write."""

    def losses(model: Any, items: Sequence[Item], done: Callable[[int], None], stop: ShouldStop) -> RowLosses:
        return held_out_losses(model, items, label_losses, layout, on_progress=done, should_stop=stop)

    def answers(model: Any, asked: Asked, done: Callable[[int], None], stop: ShouldStop) -> Answers:
        if not asked.prompts or not max_new_tokens:
            return Answers()
        found = generate(
            model,
            tokenizer,
            asked.prompts,
            Decoding(max_new_tokens=max_new_tokens, stop_token_ids=stop_token_ids),
            tokens_per_batch=TOKENS_PER_BATCH,
            on_progress=lambda count, _: done(count),
            should_stop=stop,
        )
        return Answers(tuple(one.text.strip() for one in found), sum(len(one.token_ids) for one in found))

    return Ruler(losses, answers, on_progress, should_stop)
