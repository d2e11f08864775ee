"""Heads and models with encoder and decoder through the worker: they learn, and other programs load what is saved."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, cast

import peft
import pytest
import torch
import transformers
from real_worker import Place, RealRun, write_labelled
from tiny_models import tiny_encoder_folder, tiny_seq2seq_folder

from tunesmith.catalog.heads import Head, read_head
from tunesmith.data.labelled import LabelledRow, make_reader
from tunesmith.data.packs import lay_out
from tunesmith.data.types import TokenRow
from tunesmith.formats.examples import EntityText, Example, LabelledText, QuestionAnswer, Span
from tunesmith.models.heads import head_logits
from tunesmith.models.load import LoadPlan, load_model, load_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
PLACES = ("Paris", "Rome", "Oslo", "Bonn")
HEADS = {
    "sequence_classification": ("rows.csv", "accuracy", transformers.AutoModelForSequenceClassification),
    "token_classification": ("words.jsonl", "tag_f1", transformers.AutoModelForTokenClassification),
    "question_answering": ("asked.jsonl", "exact_match", transformers.AutoModelForQuestionAnswering),
}
TECHNIQUES: dict[str, Any] = {"full": "full", "lora": {"name": "lora", "rank": 4}}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("objectives"))
    tiny_encoder_folder(place.folder / "encoder")
    tiny_seq2seq_folder(place.folder / "t5")
    write_labelled(place.folder / "rows.csv", 24)
    words, asked = [], []
    for number in range(24):
        name = PLACES[number % 4]
        text = f"{number} trains go to {name} today"
        at = text.index(name)
        words.append({"text": text, "entities": [{"start": at, "end": at + len(name), "label": "city"}]})
        asked.append({"question": "Where do they go?", "context": text, "answer": name})
    write_lines(place.folder / "words.jsonl", words)
    write_lines(place.folder / "asked.jsonl", asked)
    return place


EXAMPLES: dict[str, Example] = {
    "sequence_classification": LabelledText("message 3 goes up the street", "up"),
    "token_classification": EntityText("3 trains go to Oslo today", (Span(15, 19, "city"),)),
    "question_answering": QuestionAnswer("Where do they go?", ("Oslo",), "3 trains go to Oslo today"),
}


def trained(place: Place, name: str, model: str, objective: str, technique: Any, **train: Any) -> RealRun:
    recipe = {
        "model": model,
        "data": {"train": HEADS[objective][0] if objective in HEADS else "rows.csv", "validation": 0.25},
        "objective": objective,
        "technique": technique,
        "train": {"seed": 5, "epochs": 12, "tokens_per_step": 150, "learning_rate": 0.003, **train},
    }
    return place.run(name, recipe).done()


def loaded_by_others(folder: Path, base: Path, objective: str, technique: str) -> Any:
    """What Transformers and PEFT make of a result, without Tunesmith."""
    auto: Any = HEADS[objective][2]
    if technique == "full":
        return auto.from_pretrained(folder).eval()
    options: dict[str, Any] = {}
    if objective != "question_answering":
        options["num_labels"] = len(head_of(folder).labels)
    elif base.name == "model":
        # Transformers' class for this head reads weights of the Llama below only by names that it is told.
        options["key_mapping"] = {"^model.": "transformer."}
    return peft.PeftModel.from_pretrained(auto.from_pretrained(base, **options), folder).eval()


def loaded_by_us(folder: Path, base: Path, technique: str) -> Any:
    plan = LoadPlan(folder if technique == "full" else base, head=head_of(folder))
    model = load_model(plan)
    return model if technique == "full" else peft.PeftModel.from_pretrained(model, folder).eval()


def head_of(folder: Path) -> Head:
    head = read_head(folder)
    assert head is not None
    return head


def their_scores(model: Any, tokenizer: Any, objective: str, kind: str, row: LabelledRow) -> torch.Tensor:
    example = EXAMPLES[objective]
    if isinstance(example, QuestionAnswer):
        assert example.context is not None
        texts = (example.question, example.context)
        texts = texts if kind == "encoder" else ("\n\n".join(texts),)
    else:
        assert isinstance(example, LabelledText | EntityText)
        texts = (example.text,)
    batch = tokenizer(*texts, return_tensors="pt")
    assert batch["input_ids"][0].tolist() == row.token_ids_T.tolist()
    out = model(**batch)
    if objective == "sequence_classification":
        return cast(torch.Tensor, out.logits)
    scores_T_C = torch.stack([out.start_logits[0], out.end_logits[0]], -1) if "start_logits" in out else out.logits[0]
    return cast(torch.Tensor, scores_T_C[torch.tensor(row.marked_T)])


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("model", ["encoder", "model"])
@pytest.mark.parametrize("objective", HEADS)
def test_a_head_learns_and_other_programs_load_it(place: Place, objective: str, model: str, technique: str) -> None:
    run = trained(place, f"{objective}-{model}-{technique}", model, objective, TECHNIQUES[technique])
    base, tuned = run.systems["base"], run.systems["tuned"]
    assert tuned["loss"]["value"] < 0.7 * base["loss"]["value"]
    assert HEADS[objective][1] in tuned["metrics"]
    folder = run.folder.path / ("model" if technique == "full" else "adapter")
    theirs = loaded_by_others(folder, place.folder / model, objective, technique)
    if technique == "full" and objective != "question_answering":
        assert theirs.config.id2label == dict(enumerate(head_of(folder).labels))
    tokenizer, kind = load_tokenizer(folder), "encoder" if model == "encoder" else "causal"
    row = make_reader(objective, head_of(folder).task_labels, tokenizer, kind).encode(EXAMPLES[objective])
    tokens = TokenRow(row.token_ids_T, row.marked_T, "rows:1", row.label_ids_T)
    (pack,) = lay_out([(0, tokens)], tokens_per_micro_batch=99, share_prefix=False)
    with torch.inference_mode():
        ours = head_logits(loaded_by_us(folder, place.folder / model, technique), pack)
        expected = their_scores(theirs, tokenizer, objective, kind, row)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_model_with_encoder_and_decoder_learns(place: Place, technique: str) -> None:
    rate = 0.01 if technique == "full" else 0.05
    run = trained(place, f"seq2seq-{technique}", "t5", "seq2seq", TECHNIQUES[technique], learning_rate=rate)
    base, tuned = run.systems["base"], run.systems["tuned"]
    assert tuned["loss"]["value"] < 0.7 * base["loss"]["value"]
    assert "accuracy" in tuned["metrics"]
    folder = run.folder.path / ("model" if technique == "full" else "adapter")
    auto = transformers.AutoModelForSeq2SeqLM
    if technique == "full":
        auto.from_pretrained(folder)
    else:
        peft.PeftModel.from_pretrained(auto.from_pretrained(place.folder / "t5"), folder)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_head_that_was_killed_ends_as_one_that_nobody_touched(place: Place, technique: str) -> None:
    options = {"checkpoint_every_steps": 3}
    whole = trained(place, f"whole-{technique}", "encoder", "token_classification", TECHNIQUES[technique], **options)
    run = place.run(f"killed-{technique}", json.loads(whole.folder.recipe.read_text()))
    worker = run.start()
    worker.until(lambda events: any(event.type == "checkpoint" for event in events))
    worker.kill()
    assert worker.wait() == -signal.SIGKILL
    run.done()
    assert len({event.attempt for event in run.events}) == 2
    steps = [event.step for event in run.events if event.type == "step" and event.attempt == 2]
    assert steps[:1] != [1]
    name = "model/model.safetensors" if technique == "full" else "adapter/adapter_model.safetensors"
    assert (run.folder.path / name).read_bytes() == (whole.folder.path / name).read_bytes()


def test_conversations_are_learned_whole(place: Place) -> None:
    run = trained(place, "whole", "model", "text", "full", epochs=3)
    audit = json.loads(run.folder.audit.read_text())
    checks = {check["name"]: check["ok"] for check in audit["checks"]}
    assert checks["everything_trains"]
    assert all(checks.values())
    report = json.loads((run.folder.path / "report.json").read_text())
    tokens, trained_tokens = (report["data"]["train"][name] for name in ("tokens", "trained_tokens"))
    assert trained_tokens == tokens - report["data"]["train"]["used_rows"]
    base, tuned = report["systems"][0], report["systems"][-1]
    assert tuned["loss"]["value"] < base["loss"]["value"]
