"""The real encoder of the catalog: fetched, described, and computed as the library computes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from tunesmith.catalog.entries import find_entry
from tunesmith.catalog.heads import Head
from tunesmith.models.load import LoadPlan, load_model, load_tokenizer, model_facts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TEXTS = ["Where is my parcel?", "The parcel has not arrived.", "Paris is the capital of France."]


def test_the_folder_is_what_the_catalog_says(encoder_model: Path) -> None:
    entry = find_entry("all-minilm-l6-v2")
    assert entry is not None
    facts = model_facts(encoder_model)
    assert (facts.kind, facts.model_type, facts.parameters) == ("encoder", "bert", entry.parameters)
    assert (facts.context_length, facts.vocabulary_size) == (entry.context_length, entry.vocabulary_size)
    assert json.loads((encoder_model / "tunesmith.json").read_text())["licence"] == "apache-2.0"


def test_texts_that_mean_alike_lie_near_each_other(encoder_model: Path) -> None:
    """Random weights would not tell these texts apart, nor would a tokenizer of another model."""
    tokenizer = load_tokenizer(encoder_model)
    model = transformers.AutoModel.from_pretrained(encoder_model).eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states_B_T_H = model(**batch).last_hidden_state
    mask_B_T = batch["attention_mask"][:, :, None]
    means_B_H = torch.nn.functional.normalize((states_B_T_H * mask_B_T).sum(1) / mask_B_T.sum(1), dim=-1)
    alike_B_B = means_B_H @ means_B_H.T
    assert alike_B_B[0, 1] > 0.5 > alike_B_B[0, 2] + 0.2
    ours = load_model(LoadPlan(encoder_model, head=Head("sequence_classification", ("a", "b")), attention="sdpa"))
    with torch.inference_mode():
        assert torch.allclose(ours.bert(**batch).last_hidden_state, states_B_T_H, atol=1e-5)
