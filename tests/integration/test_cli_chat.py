"""Talking to models and runs: real processes, a real (tiny) model, from the command line and from Python."""

from __future__ import annotations

import io
import json
import re
import sys
from contextlib import redirect_stdout

import peft
import pytest
import torch
from tiny_models import tiny_causal_model, tiny_tokenizer

import tunesmith
from tunesmith.cli import main
from tunesmith.cli.terminal import clean
from tunesmith.errors import ModelError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

QUESTION = "Where is my parcel?"
LENGTH = ["--max-tokens", "6"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A base model, a run with an adapter on it, and a run whose whole model was trained."""
    root = tmp_path_factory.mktemp("chat")
    for name in ("base", "runs/full/model"):
        (root / name).mkdir(parents=True)
        tiny_tokenizer(root / name)
        model = tiny_causal_model("llama", root / name, tie_word_embeddings=False)
    torch.nn.init.normal_(model.lm_head.weight)
    model.save_pretrained(root / "runs" / "full" / "model")
    model = tiny_causal_model("llama", root / "scratch", tie_word_embeddings=False)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(3)
    peft.get_peft_model(model, config).save_pretrained(root / "runs" / "lora" / "adapter")
    for name in ("lora", "full", "open"):
        folder = root / "runs" / name
        folder.mkdir(exist_ok=True)
        (folder / "recipe.yaml").write_text("model: base\n")
        if name != "open":
            (folder / "manifest.json").write_text(json.dumps({"model": {"name": str(root / "base")}}))
    return root


@pytest.fixture
def call(root, monkeypatch, capsys):
    monkeypatch.chdir(root)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main.run(list(arguments))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def answers(root):
    """What base and tuned answer to the question."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.chdir(root)
        assert main.run(["chat", "lora", "--compare", "--prompt", QUESTION, *LENGTH, "--json"]) == 0
    return json.loads(out.getvalue())["answers"]


def test_one_question_is_answered_by_base_and_tuned(answers):
    assert list(answers) == ["base", "tuned"]
    assert answers["base"] != answers["tuned"]


@pytest.mark.slow
def test_lines_from_a_pipe_are_one_conversation_with_each(call, monkeypatch, answers):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n\nAnd now?\n/reset\n{QUESTION}\n/quit\nnot asked\n"))
    code, out, err = call("chat", "lora", "--compare", *LENGTH)
    assert code == 0, err
    turns = [re.fullmatch(r"(.*)\ntuned:\n(.*)\n", turn, re.DOTALL).groups() for turn in out.split("base:\n")[1:]]
    asked = (clean(answers["base"]), clean(answers["tuned"]))
    assert len(turns) == 3
    assert turns[0] == turns[2] == asked
    assert turns[1] != asked
    assert "Bearer" not in err


@pytest.mark.slow
def test_a_run_that_trained_all_weights_is_compared_with_its_base_too(call, answers):
    found = json.loads(call("chat", "full", "--compare", "-p", QUESTION, *LENGTH, "--json")[1])["answers"]
    assert found["base"] == answers["base"] != found["tuned"]


def test_what_cannot_be_talked_to_is_refused(call):
    code, _, err = call("chat", "base", "--compare", "-p", "x")
    assert (code, "only a tuned model" in err) == (2, True)
    assert call("chat", "nosuch", "-p", "x")[0] == 13
    assert call("chat", "base", "--json")[0] == 2


@pytest.mark.slow
def test_the_python_door_answers_like_the_command_line(answers, root, monkeypatch):
    monkeypatch.chdir(root)
    with tunesmith.load(tunesmith.Run(root / "runs" / "lora")) as model:
        assert model.generate(QUESTION, max_tokens=6) == answers["tuned"]
        assert "".join(model.chat([{"role": "user", "content": QUESTION}], max_tokens=6)) == answers["tuned"]
        with pytest.raises(UsageError):
            model.generate(QUESTION, temperature=9)
    model.close()
    with pytest.raises(ModelError):
        tunesmith.load("nosuch")
