"""Every technique with every objective: what the table of refusals lets through learns, and what it saves says so.

The fast tier has pairs chosen so that every objective and every kind of technique comes up; the slow one has all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recipe_cases import DATA, HOST, MODEL, TEXT, recipe
from technique_cases import QUIET, SUITE
from tiny_models import tiny_causal_model, tiny_encoder_folder, tiny_seq2seq_folder
from tiny_training import MemoryRows, counting_rows

from tunesmith.catalog.heads import Head, HeadKind
from tunesmith.data.packs import lay_out
from tunesmith.data.types import TokenIds, TokenRow
from tunesmith.errors import RecipeError
from tunesmith.models.attention import ATTENTION
from tunesmith.models.load import LoadPlan, load_model
from tunesmith.objectives.table import OBJECTIVES, make_objective
from tunesmith.recipe import objectives as variants
from tunesmith.recipe.facts import DataFacts, ModelFacts
from tunesmith.recipe.refusal import Facts
from tunesmith.recipe.refusals import check
from tunesmith.techniques.base import Technique
from tunesmith.techniques.table import make_technique

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]

STEPS = 8
COUNT = 12


def _pairs() -> list[tuple[TokenRow, ...]]:
    """Prompts continued by counting on, which is chosen, and by standing still, which is not."""
    items = []
    for row in counting_rows(COUNT).rows:
        still = row.token_ids_T.copy()
        still[row.trained_T] = still[~row.trained_T][-1]
        items.append((replace(row, kind=1), replace(row, token_ids_T=still)))
    return items


def _rated() -> list[tuple[TokenRow, ...]]:
    return [(pair[index % 2],) for index, pair in enumerate(_pairs())]


def _labelled(mark: Callable[[TokenIds], tuple[TokenIds, TokenIds]]) -> list[tuple[TokenRow, ...]]:
    """Rows with ``mark``'s places and labels."""
    items = []
    for row in counting_rows(COUNT).rows:
        tokens_T = row.token_ids_T
        marked_T, labels_T = np.zeros(len(tokens_T), dtype=np.bool_), np.zeros(len(tokens_T), dtype=np.int64)
        places_L, labels_L = mark(tokens_T)
        marked_T[places_L], labels_T[places_L] = True, labels_L
        items.append((TokenRow(tokens_T, marked_T, row.place, labels_T),))
    return items


def _classes(at: int) -> list[tuple[TokenRow, ...]]:
    """Low numbers and high ones are two classes."""
    return _labelled(lambda tokens_T: (np.array([at]), np.array([int(tokens_T[-1] > 45)])))


def _tags() -> list[tuple[TokenRow, ...]]:
    return _labelled(lambda tokens_T: (np.arange(4, len(tokens_T)), tokens_T[4:] % 3))


def _answers() -> list[tuple[TokenRow, ...]]:
    def mark(tokens_T: TokenIds) -> tuple[TokenIds, TokenIds]:
        labels_L = np.zeros(len(tokens_T) - 4, dtype=np.int64)
        labels_L[1], labels_L[3] = 1, 2
        return np.arange(4, len(tokens_T)), labels_L

    return _labelled(mark)


@dataclass(frozen=True)
class Setting:
    """An objective with rows for it and what a recipe knows of them."""

    spec: Any
    rows: Callable[[], list[tuple[TokenRow, ...]]]
    data: DataFacts
    model: str = "causal"
    head: Head | None = None


def _head(kind: HeadKind, labels: int = 0) -> Head:
    return Head(kind, tuple("abc"[:labels]))


PAIRS = replace(DATA, task="preference", shape="preference")
CLASSES = replace(DATA, task="classification", shape="text_label", labels=2)
ENTITIES = replace(DATA, task="ner", shape="entities", labels=2)
QUESTIONS = replace(DATA, task="qa", shape="question_answer")
SEQUENCE = (variants.SequenceClassification(), _head("sequence_classification", 2))
TOKENS = (variants.TokenClassification(), _head("token_classification", 3))
ANSWERS = (variants.QuestionAnswering(), _head("question_answering"))

SETTINGS = {
    "sft": Setting(variants.Sft(), lambda: [(row,) for row in counting_rows(COUNT).rows], DATA),
    "text": Setting(variants.Text(), lambda: [(row,) for row in counting_rows(COUNT, shared=0).rows], TEXT),
    "dpo": Setting(variants.Dpo(), _pairs, PAIRS),
    "ipo": Setting(variants.Dpo(loss="ipo"), _pairs, PAIRS),
    "orpo": Setting(variants.Orpo(), _pairs, PAIRS),
    "kto": Setting(variants.Kto(), _rated, replace(PAIRS, shape="rated")),
    "sequence-causal": Setting(SEQUENCE[0], lambda: _classes(-1), CLASSES, "causal", SEQUENCE[1]),
    "sequence-encoder": Setting(SEQUENCE[0], lambda: _classes(0), CLASSES, "encoder", SEQUENCE[1]),
    "tokens-causal": Setting(TOKENS[0], _tags, ENTITIES, "causal", TOKENS[1]),
    "tokens-encoder": Setting(TOKENS[0], _tags, ENTITIES, "encoder", TOKENS[1]),
    "answers-causal": Setting(ANSWERS[0], _answers, QUESTIONS, "causal", ANSWERS[1]),
    "answers-encoder": Setting(ANSWERS[0], _answers, QUESTIONS, "encoder", ANSWERS[1]),
    "seq2seq": Setting(
        variants.Seq2seq(), lambda: [(row,) for row in counting_rows(COUNT).rows], DATA, "encoder_decoder"
    ),
}
FAST = {
    *itertools.product(["lora"], SETTINGS),
    *itertools.product(["full"], ["text", "orpo", "sequence-encoder", "answers-encoder", "seq2seq"]),
    *itertools.product(["qlora"], ["dpo", "kto", "sequence-causal", "tokens-encoder", "seq2seq"]),
    *itertools.product(["dora"], ["kto", "tokens-causal", "answers-encoder"]),
    *itertools.product(["ia3"], ["dpo", "answers-causal", "sequence-encoder", "seq2seq"]),
    *itertools.product(["prompt_tuning"], ["text", "dpo", "ipo", "orpo", "kto"]),
    ("freeze", "tokens-encoder"),
    ("oft", "orpo"),
    ("adalora", "dpo"),
    ("ln_tuning", "sequence-causal"),
}


def _facts(setting: Setting) -> Facts:
    is_causal = setting.model == "causal"
    model: ModelFacts = replace(MODEL, kind=setting.model, has_chat_template=is_causal)  # type: ignore[arg-type]
    return Facts(setting.data, model, HOST)


def is_claimed(technique: str, setting: Setting) -> bool:
    """Whether a recipe with both is let through."""
    wanted = recipe().model_copy(update={"technique": SUITE[technique].spec, "objective": setting.spec})
    try:
        check(wanted, _facts(setting))
    except RecipeError:
        return False
    return True


CLAIMED = [
    pytest.param(technique, name, id=f"{technique}-{name}", marks=() if (technique, name) in FAST else pytest.mark.slow)
    for technique, name in itertools.product(SUITE, SETTINGS)
    if is_claimed(technique, SETTINGS[name])
]


def _folder(kind: str, folder: Path) -> Path:
    if kind == "encoder":
        return tiny_encoder_folder(folder)
    if kind == "encoder_decoder":
        return tiny_seq2seq_folder(folder)
    tiny_causal_model("llama", folder)
    return folder


class Items(MemoryRows):
    """Items of one row or of several, in memory."""

    def __init__(self, items: list[tuple[TokenRow, ...]]) -> None:
        super().__init__(row for item in items for row in item)
        self.items = items

    @property
    def lengths_B(self) -> Any:
        return np.array([sum(len(row.token_ids_T) for row in item) for item in self.items], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.items)

    def item(self, index: int) -> tuple[TokenRow, ...]:
        return self.items[index]


def step(model: Any, setting: Setting, rows: list[tuple[int, TokenRow]], *, learn: bool) -> float:
    """The loss of one step over all rows; with ``learn``, gradients too."""
    # Some techniques draw numbers while they learn, and are measured without.
    model.train(learn)
    objective = make_objective(setting.spec)
    layout: dict[str, Any] = {"tokens_per_micro_batch": 120, "share_prefix": False}
    packs = lay_out(rows, **layout)
    with torch.no_grad():
        known = objective.step_sums(model, packs, lay_out(objective.companions(rows), **layout))
    total = 0.0
    with torch.set_grad_enabled(learn):
        for pack in packs:
            loss = objective.loss(model, pack, known).total / known[0]
            if learn:
                loss.backward()
            total += float(loss.detach())
    return total


def _load(technique: Technique, setting: Setting, folder: Path) -> Any:
    attention = "sdpa" if setting.model == "encoder_decoder" else ATTENTION
    return load_model(LoadPlan(folder, attention=attention, head=setting.head, quantization=technique.quantization))


def test_the_settings_have_every_objective() -> None:
    assert {setting.spec.name for setting in SETTINGS.values()} == OBJECTIVES.keys()


def test_every_objective_is_claimed_for_low_rank_adapters_and_the_fast_pairs_are_claimed() -> None:
    claimed = {tuple(case.values) for case in CLAIMED}
    assert claimed >= FAST
    assert {name for technique, name in claimed if technique == "lora"} == SETTINGS.keys()


@pytest.mark.parametrize(("technique_name", "setting_name"), CLAIMED)
def test_it_learns_and_what_it_learned_goes_out_and_in(tmp_path: Path, technique_name: str, setting_name: str) -> None:
    case, setting = SUITE[technique_name], SETTINGS[setting_name]
    technique = make_technique(case.spec)
    folder = _folder(setting.model, tmp_path / "base")
    model = technique.prepare(_load(technique, setting, folder), seed=0)
    rows = [(index, row) for index, item in enumerate(setting.rows()) for row in item]
    before = step(model, setting, rows, learn=False)
    optimizer = torch.optim.AdamW(technique.parameter_groups(model, weight_decay=0.0), lr=case.learning_rate)
    for number in range(STEPS):
        step(model, setting, rows, learn=True)
        technique.regularize(model)
        optimizer.step()
        technique.after_update(model, number, STEPS)
        optimizer.zero_grad()
    after = step(model, setting, rows, learn=False)
    assert np.isfinite(after)
    assert after < before

    state = {name: value.clone() for name, value in technique.trainable_state(model).items()}
    fresh = technique.prepare(_load(technique, setting, folder), seed=0)
    assert step(fresh, setting, rows, learn=False) == pytest.approx(before, rel=1e-5)
    technique.load_trainable_state(fresh, state)
    assert step(fresh, setting, rows, learn=False) == pytest.approx(after, rel=1e-5)
