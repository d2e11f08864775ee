"""Multiple choice as asked and as mistyped: each question's score, and its worst over all ways of asking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tunesmith.evaluation.metrics import Rows, summarise
from tunesmith.evaluation.metrics.choices import WORST
from tunesmith.evaluation.metrics.types import mean_rows
from tunesmith.evaluation.multiple_choice import Scoring, log_likelihoods, score_question
from tunesmith.evaluation.perturb import PERTURBATIONS, perturb
from tunesmith.formats.choices import ChoiceQuestion


@dataclass(frozen=True)
class ChoiceScores:
    """One system's scores, as plain data.

    ``scores_B`` are the metrics of each question as asked; ``perturbed_B`` those of each kind of change, where a
    question that the change leaves as it is has no entry of its own (None); ``chosen_B`` the most likely answers.
    ``tokens_read`` went through the model, beginnings that questions share once.
    """

    scores_B: tuple[Mapping[str, float], ...]
    perturbed_B: Mapping[str, tuple[Mapping[str, float] | None, ...]]
    chosen_B: tuple[str, ...]
    tokens_read: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain data; :func:`choice_scores_from_json` reads it."""
        return asdict(self)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the questions as asked, the deciding one first."""
        return tuple(self.scores_B[0])

    def rows(self, metric: str) -> Rows:
        """The rows of a metric, or of its worst case."""
        if not metric.endswith(WORST):
            return mean_rows([scores[metric] for scores in self.scores_B])
        plain = metric.removesuffix(WORST)
        return mean_rows([min(self._every_way(at, plain)) for at in range(len(self.scores_B))])

    def _every_way(self, at: int, metric: str) -> list[float]:
        changed = [by_question[at] for by_question in self.perturbed_B.values()]
        return [self.scores_B[at][metric], *(scores[metric] for scores in changed if scores is not None)]


def choice_scores_from_json(data: Mapping[str, Any]) -> ChoiceScores:
    """Read what :meth:`ChoiceScores.to_json` wrote."""
    perturbed = {kind: tuple(scores) for kind, scores in data["perturbed_B"].items()}
    return ChoiceScores(tuple(data["scores_B"]), perturbed, tuple(data["chosen_B"]), data.get("tokens_read", 0))


def measure_choices(
    model: Any,
    questions: Sequence[ChoiceQuestion],
    scoring: Scoring,
    *,
    robustness: bool,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> ChoiceScores:
    """Score questions as asked and, for ``robustness``, under every perturbation; answers are never changed.

    Raises:
        DataError, Stopped: As :func:`tunesmith.evaluation.multiple_choice.log_likelihoods`.
    """
    kinds = tuple(PERTURBATIONS) if robustness else ()
    asked: list[ChoiceQuestion] = list(questions)
    place_of: dict[tuple[int, str], int] = {(at, question.question): at for at, question in enumerate(questions)}
    for kind in kinds:
        for at, question in enumerate(questions):
            text = perturb(question.question, kind, seed)
            if (at, text) not in place_of:
                place_of[at, text] = len(asked)
                asked.append(replace(question, question=text))
    read: list[int] = []
    found = log_likelihoods(
        model,
        asked,
        scoring,
        on_progress=lambda done: on_progress(done, len(asked)),
        should_stop=should_stop,
        on_read=read.append,
    )
    scores = [score_question(question, likelihoods) for question, likelihoods in zip(asked, found, strict=True)]
    perturbed: dict[str, tuple[dict[str, float] | None, ...]] = {}
    for kind in kinds:
        places = [place_of[at, perturb(question.question, kind, seed)] for at, question in enumerate(questions)]
        perturbed[kind] = tuple(None if place == at else scores[place] for at, place in enumerate(places))
    chosen = tuple(
        max(next(iter(question.targets.values())).texts, key=found[at].__getitem__)
        for at, question in enumerate(questions)
    )
    return ChoiceScores(tuple(scores[: len(questions)]), perturbed, chosen, sum(read))


def choice_metrics(scores: ChoiceScores, seed: int) -> dict[str, dict[str, Any]]:
    """Every metric with its interval, and its worst case where questions were perturbed."""
    names = [*scores.metrics]
    if scores.perturbed_B:
        names += [f"{name}{WORST}" for name in scores.metrics]
    return {name: summarise(name, scores.rows(name), seed) for name in names}


def robustness_table(scores: ChoiceScores) -> list[dict[str, Any]]:
    """What each way of asking scores on all questions, and how many questions it changes."""
    if not scores.perturbed_B:
        return []
    total = len(scores.scores_B)
    table: list[dict[str, Any]] = [{"asked": "as_written", "changed": 0, **_means(scores, scores.scores_B)}]
    for kind, by_question in scores.perturbed_B.items():
        changed = sum(one is not None for one in by_question)
        filled = [one or scores.scores_B[at] for at, one in enumerate(by_question)]
        table.append({"asked": kind, "changed": changed, **_means(scores, filled)})
    worst = {name: float(scores.rows(f"{name}{WORST}").scores.mean()) for name in scores.metrics}
    return [*table, {"asked": "worst_case", "changed": total, **worst}]


def _means(scores: ChoiceScores, rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in scores.metrics}
