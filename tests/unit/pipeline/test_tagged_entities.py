"""A head's entities are measured by place, with the numbers that seqeval computes from the tags."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from seqeval.metrics import f1_score
from tiny_models import tiny_model_folder

from tunesmith.data.labelled import make_reader
from tunesmith.data.words import tagged_words
from tunesmith.evaluation.metrics import score
from tunesmith.formats.examples import EntityText
from tunesmith.formats.inspect import inspect_source
from tunesmith.formats.read import read_examples
from tunesmith.models.load import load_tokenizer
from tunesmith.pipeline.supervision import SUPERVISION
from tunesmith.tasks import prepare_task


def test_entities_of_a_head_score_as_seqeval_scores_their_tags(tmp_path: Path) -> None:
    chance = random.Random(3)
    pieces = [("O",), ("B-LOC",), ("B-LOC", "I-LOC"), ("B-PER", "I-PER")]
    words = ["from", "Paris", "to", "Paris", "Ada", "went"]
    rows = []
    for _ in range(20):
        tags = [tag for piece in chance.choices(pieces, k=6) for tag in piece]
        rows.append({"tokens": chance.choices(words, k=len(tags)), "tags": tags})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    inspection = inspect_source(path)
    examples = [example for _, example in read_examples(inspection)]
    task = prepare_task("ner", inspection, examples)
    tokenizer = load_tokenizer(tiny_model_folder("llama", tmp_path / "model"))
    reader = make_reader("token_classification", task.labels, tokenizer, "causal")
    answers, gold, references, said = [], [], [], []
    for example in examples:
        assert isinstance(example, EntityText)
        row = SUPERVISION["token_classification"].shown(task, example)
        assert row is not None
        own = [reader.labels.index(word.tag) for word in tagged_words(example)]
        found = [label if chance.random() < 0.7 else chance.randrange(len(reader.labels)) for label in own]
        answers.append(reader.answer(reader.encode(example), found))
        said.append([reader.labels[label] for label in found])
        gold.append([reader.labels[label] for label in own])
        references.append(row.reference)
    found_f1 = score(["tag_f1", "entity_f1"], answers, references)
    assert found_f1["tag_f1"]["value"] == pytest.approx(f1_score(gold, said))
    assert found_f1["entity_f1"]["value"] > found_f1["tag_f1"]["value"]
