"""Heads: the same scores in a pack as the library gives for each row alone, and new weights that depend on the seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_encoder_folder, tiny_model_folder, tiny_seq2seq_folder

from tunesmith.catalog.heads import Head
from tunesmith.data.packs import lay_out
from tunesmith.data.types import TokenRow
from tunesmith.models.attention import ATTENTION
from tunesmith.models.load import LoadPlan, load_model, model_facts
from tunesmith.objectives.table import make_objective
from tunesmith.recipe import objectives as specs

HEADS = {
    "sequence_classification": Head("sequence_classification", ("a", "b", "c"), seed=3),
    "token_classification": Head("token_classification", ("O", "B-x", "I-x"), seed=3),
    "question_answering": Head("question_answering", seed=3),
}
SPECS: dict[str, Any] = {
    "sequence_classification": specs.SequenceClassification(),
    "token_classification": specs.TokenClassification(),
    "question_answering": specs.QuestionAnswering(),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("heads")
    return {
        "bert": tiny_encoder_folder(place / "bert"),
        "distilbert": tiny_encoder_folder(place / "distilbert", family="distilbert"),
        "llama": tiny_model_folder("llama", place / "llama"),
        "t5": tiny_seq2seq_folder(place / "t5"),
    }


def rows_for(head: str, family: str) -> list[tuple[int, TokenRow]]:
    numbers = np.random.default_rng(0)
    rows = []
    for index in range(5):
        length = int(numbers.integers(5, 12))
        tokens = np.concatenate([[7, 8], numbers.integers(3, 400, length)])
        marked = np.zeros(len(tokens), dtype=bool)
        labels = numbers.integers(0, 3, len(tokens))
        if head == "sequence_classification":
            marked[-1 if family == "llama" else 0] = True
        else:
            marked[2:] = True
        if head == "question_answering":
            labels[:] = 0
            labels[3], labels[5] = 1, 2
        rows.append((index, TokenRow(tokens.astype(np.int64), marked, f"x:{index}", labels.astype(np.int64))))
    return rows


def library_loss(model: Any, head: str, row: TokenRow) -> torch.Tensor:
    """What Transformers itself gives for one row, its own reading of labels included."""
    ids = torch.tensor(row.token_ids_T)[None]
    assert row.label_ids_T is not None
    labels = torch.tensor(np.where(row.trained_T, row.label_ids_T, -100))
    if head == "sequence_classification":
        return model(input_ids=ids, labels=labels[labels >= 0]).loss
    if head == "token_classification":
        # The library turns these scores into fp32 before its loss, which is this very function.
        scores = model(input_ids=ids).logits[0]
        return torch.nn.functional.cross_entropy(scores, labels, reduction="sum")
    scores = model(input_ids=ids)
    candidates = torch.tensor(row.trained_T)
    # The library's softmax is over all tokens of a row, ours over its text; so its scores are cut to the text.
    starts, ends = scores.start_logits[0][candidates], scores.end_logits[0][candidates]
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(starts, torch.tensor(1)) + cross_entropy(ends, torch.tensor(3))) / 2


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("family", "share", "tolerance"),
    # Llama's norms round to fp32 on the way back too, which shows where gradients of several rows meet in one prefix.
    [("bert", False, 1e-9), ("llama", False, 1e-9), ("llama", True, 1e-5), ("distilbert", False, 1e-9)],
)
def test_packed_losses_and_gradients_are_those_of_the_library(
    folders: dict[str, Path], head: str, family: str, share: bool, tolerance: float
) -> None:
    packs_attention = "sdpa" if family == "distilbert" else ATTENTION
    ours, theirs = (
        load_model(LoadPlan(folders[family], torch.float64, attention=attention, head=HEADS[head]))
        for attention in (packs_attention, "sdpa")
    )
    rows = rows_for(head, family)
    objective = make_objective(SPECS[head])
    packs = lay_out(rows, tokens_per_micro_batch=200, share_prefix=share)
    assert len(packs) == 1
    sums = objective.step_sums(ours, packs, ())
    loss = objective.loss(ours, packs[0], sums).total
    expected = sum(library_loss(theirs, head, row) for _, row in rows)
    loss.backward()  # type: ignore[no-untyped-call]
    expected.backward()  # type: ignore[union-attr, no-untyped-call]
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-9)
    trained = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        mine, other = parameter.grad, trained[name].grad
        zero = torch.zeros_like(parameter)
        torch.testing.assert_close(
            zero if mine is None else mine, zero if other is None else other, atol=tolerance, rtol=0
        )


@pytest.mark.parametrize("head", HEADS)
def test_accumulated_losses_are_those_of_the_whole(folders: dict[str, Path], head: str) -> None:
    model = load_model(LoadPlan(folders["bert"], torch.float64, head=HEADS[head]))
    objective = make_objective(SPECS[head])
    whole, small = (
        lay_out(rows_for(head, "bert"), tokens_per_micro_batch=bound, share_prefix=False) for bound in (200, 12)
    )
    assert len(small) > len(whole)
    assert objective.step_sums(model, whole, ()) == objective.step_sums(model, small, ())
    totals = [sum(objective.loss(model, pack, (1.0,)).total for pack in packs) for packs in (whole, small)]
    torch.testing.assert_close(totals[0], totals[1], rtol=0, atol=1e-9)


def test_new_head_weights_depend_on_the_seed_alone(folders: dict[str, Path]) -> None:
    def drawn(seed: int, disturb: int) -> torch.Tensor:
        torch.manual_seed(disturb)
        head = Head("sequence_classification", ("a", "b"), seed)
        return load_model(LoadPlan(folders["bert"], head=head)).classifier.weight.detach()

    assert torch.equal(drawn(1, 5), drawn(1, 6))
    assert not torch.equal(drawn(1, 5), drawn(2, 5))


def test_the_labels_stand_in_the_config(folders: dict[str, Path]) -> None:
    config = load_model(LoadPlan(folders["llama"], head=HEADS["sequence_classification"])).config
    assert config.id2label == {0: "a", 1: "b", 2: "c"}
    assert config.label2id == {"a": 0, "b": 1, "c": 2}


def test_kinds_are_told_from_the_config(folders: dict[str, Path]) -> None:
    kinds = {name: model_facts(folder).kind for name, folder in folders.items()}
    assert kinds == {"bert": "encoder", "distilbert": "encoder", "llama": "causal", "t5": "encoder_decoder"}


def test_what_a_decoder_should_write_has_the_loss_of_the_library(folders: dict[str, Path]) -> None:
    model = load_model(LoadPlan(folders["t5"], torch.float64, attention="sdpa"))
    tokens = np.array([5, 6, 7, 2, 9, 11, 2])
    row = TokenRow(tokens, np.arange(7) >= 4, "x:1")
    (pack,) = lay_out([(0, row)], tokens_per_micro_batch=10)
    found = make_objective(specs.Seq2seq()).loss(model, pack, (3.0,)).total
    expected = model(input_ids=torch.tensor(tokens[:4])[None], labels=torch.tensor(tokens[4:])[None]).loss * 3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
