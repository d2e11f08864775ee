"""Asking tuned heads: real processes, tiny models, from the command line and from Python."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import peft
import pytest
import torch
import transformers
from tiny_models import tiny_encoder_folder, tiny_model_folder, tiny_seq2seq_folder

import tunesmith
from tunesmith.catalog.heads import Head, write_head
from tunesmith.cli import main
from tunesmith.cli.outcome import suggestions
from tunesmith.errors import ModelError, UsageError
from tunesmith.inference.classifier import Classifier
from tunesmith.inference.loading import load
from tunesmith.jobs.inference_process import start_inference
from tunesmith.runs.layout import RunFolder
from tunesmith.wire.classify import QuestionInput
from tunesmith.wire.serving import ServedModel

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
TEXT = "Where is my parcel? The parcel is in Paris."
LABELS = ("down", "left", "up")


def save(model: torch.nn.Module, base: Path, run: Path, head: Head, task_type: str | None) -> None:
    """A finished run with a random head: an adapter with it, or the whole model."""
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("model: base\n")
    (run / "manifest.json").write_text(json.dumps({"model": {"name": str(base)}}))
    if task_type is None:
        model.save_pretrained(run / "model")
        transformers.AutoTokenizer.from_pretrained(base).save_pretrained(run / "model")
        return
    options = {"target_modules": ["query", "value"], "modules_to_save": ["classifier"], "init_lora_weights": False}
    peft.get_peft_model(model, peft.LoraConfig(task_type=task_type, **options)).save_pretrained(run / "adapter")
    write_head(run / "adapter", head)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with one label a text (an adapter, and a whole causal model), one tag a word, and marked answers."""
    root = tmp_path_factory.mktemp("classify")
    base, causal = tiny_encoder_folder(root / "base"), tiny_model_folder("llama", root / "writer")
    torch.manual_seed(4)
    names = {"id2label": dict(enumerate(LABELS))}
    tags = ("O", "B-place", "I-place", "B-thing", "I-thing")
    texts = transformers.AutoModelForSequenceClassification.from_pretrained(base, **names)
    save(texts, base, root / "runs" / "texts", Head("sequence_classification", LABELS), "SEQ_CLS")
    words = transformers.AutoModelForTokenClassification.from_pretrained(base, id2label=dict(enumerate(tags)))
    # Random weights may find nothing.
    torch.nn.init.constant_(words.classifier.bias[:1], -100.0)
    save(words, base, root / "runs" / "words", Head("token_classification", tags), "TOKEN_CLS")
    asked = transformers.AutoModelForQuestionAnswering.from_pretrained(base)
    save(asked, base, root / "runs" / "asked", Head("question_answering"), None)
    causal_head = transformers.AutoModelForSequenceClassification.from_pretrained(causal, **names)
    save(causal_head, causal, root / "runs" / "causal", Head("sequence_classification", LABELS), None)
    return root


def library_scores(root: Path, text: str) -> dict[str, float]:
    """What Transformers and PEFT themselves make of the text."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        root / "base", id2label=dict(enumerate(LABELS))
    )
    model = peft.PeftModel.from_pretrained(model, root / "runs" / "texts" / "adapter").eval()
    batch = transformers.AutoTokenizer.from_pretrained(root / "base")(text, return_tensors="pt")
    with torch.inference_mode():
        chances = model(input_ids=batch["input_ids"]).logits[0].softmax(-1).tolist()
    return dict(zip(LABELS, chances, strict=True))


def test_one_label_a_text_with_the_librarys_probabilities(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    with tunesmith.load(tunesmith.Run(root / "runs" / "texts")) as model:
        first, second = model.classify([TEXT, "up"])
        assert first["scores"] == pytest.approx(library_scores(root, TEXT), abs=1e-5)
        assert second["scores"] == pytest.approx(library_scores(root, "up"), abs=1e-5)
        assert first["score"] == first["scores"][first["label"]] == max(first["scores"].values())
        assert model.classify(TEXT) == [first]
        with pytest.raises(UsageError, match="tunesmith classify") as caught:
            model.generate(TEXT)
        assert caught.value.code == "inference.model_classifies"
        for texts, context, code in (
            ("", None, "empty_input"),
            (TEXT, TEXT, "wrong_input"),
            ("up " * 600, None, "context_length_exceeded"),
        ):
            with pytest.raises(UsageError) as caught:
                model.classify(texts, context=context)
            assert caught.value.code == f"inference.{code}"


def test_entities_stand_in_the_text_and_answers_in_the_context(root: Path) -> None:
    runs = root / "runs"
    with start_inference([ServedModel("tuned", root / "base", runs / "words" / "adapter")]) as process:
        assert process.names == ("tuned",)
        (found,) = process.client.classify([TEXT], "tuned")
        status, answer = process.client.post("/v1/classify", {"model": "tuned", "input": [TEXT, TEXT]})
    assert status == 200
    tokens = 2 * len(transformers.AutoTokenizer.from_pretrained(root / "base")(TEXT)["input_ids"])
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert found.entities
    assert all(one.text == TEXT[one.start : one.end] and one.label in ("place", "thing") for one in found.entities)
    # The likeliest of five tags has at least a fifth.
    assert all(0.2 <= one.score <= 1 for one in found.entities)
    assert found.label is found.answer is None
    loaded = load(runs / "asked" / "model", None, torch.float32)
    assert loaded.head is not None
    model = Classifier(loaded.model, loaded.tokenizer, loaded.head, both_ways=True, context=512)
    (found,), tokens = model.classify([QuestionInput(question="Where?", context=TEXT)])
    assert tokens > 2
    assert found.answer
    assert found.answer in TEXT
    assert found.score is not None
    assert 0 < found.score < 1


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main.run(list(arguments))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.slow
def test_the_command_reads_arguments(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    code, out, err = call(capsys, "classify", "texts", TEXT, "up")
    assert code == 0, err
    lines = [line.split("\t") for line in out.splitlines()]
    assert [line[2] for line in lines] == [TEXT, "up"]
    assert all(line[0] in LABELS and 1 / 3 <= float(line[1]) <= 1 for line in lines)


def test_the_command_reads_lines_and_a_model_that_reads_on_has_a_head_too(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "stdin", io.StringIO("up\n\nleft side\r\n"))
    code, out, err = call(capsys, "classify", "causal", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["model"] == "causal"
    assert [one["text"] for one in document["results"]] == ["up", "left side"]
    folder = root / "runs" / "causal" / "model"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = transformers.AutoTokenizer.from_pretrained(folder)("left side", return_tensors="pt")
    with torch.inference_mode():
        chances = model(**batch).logits[0].softmax(-1).tolist()
    assert list(document["results"][1]["scores"].values()) == pytest.approx(chances, abs=1e-5)


def test_what_cannot_be_asked_so_is_refused_before_it_is_loaded(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr("tunesmith.jobs.serving.start_inference", None)
    code, _, err = call(capsys, "chat", "texts", "-p", "x")
    assert (code, "tunesmith classify texts" in err) == (2, True)
    tiny_seq2seq_folder(root / "seq2seq")
    code, _, err = call(capsys, "chat", "seq2seq", "-p", "x")
    assert (code, "encoder and decoder" in err) == (2, True)
    code, _, err = call(capsys, "classify", "base", "x")
    assert (code, "no head" in err) == (2, True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("x"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert call(capsys, "classify", "texts")[0] == 2


def test_models_that_cannot_be_served_are_named(root: Path, tmp_path: Path) -> None:
    seq2seq = tiny_seq2seq_folder(tmp_path / "seq2seq")
    for folder in (root / "base", seq2seq):
        with pytest.raises(ModelError) as caught:
            load(folder, None, torch.float32)
        assert caught.value.code == "model.not_served"


@pytest.mark.parametrize(("name", "command"), [("texts", "TEXT"), ("asked", "QUESTION --context TEXT")])
def test_a_finished_run_says_how_it_is_asked(root: Path, name: str, command: str) -> None:
    first, *rest = suggestions(RunFolder(root / "runs" / name))
    assert first.startswith("tunesmith classify ")
    assert first.endswith(f"{name} {command}")
    assert not any("chat" in line for line in rest)
