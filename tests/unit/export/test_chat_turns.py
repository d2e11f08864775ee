"""Chat templates as texts around turns, and what Ollama and Foundry Local are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_templates import STYLES, styled_tokenizer
from tiny_models import DEFAULT_SYSTEM, tiny_tokenizer

from tunesmith.export.chat_turns import turns_of
from tunesmith.export.foundry import write_inference_model
from tunesmith.export.gguf.modelfile import modelfile

CONVERSATION = [
    {"role": "user", "content": "Where is it?"},
    {"role": "assistant", "content": "On its way."},
    {"role": "user", "content": "Since when?"},
]


@pytest.mark.parametrize("style", STYLES)
def test_turns_give_what_the_template_gives(style: str) -> None:
    tokenizer = styled_tokenizer(style)
    turns = turns_of(tokenizer)
    assert turns is not None
    said = tokenizer.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
    assert turns.render(CONVERSATION) == said


def test_a_template_that_says_more_than_turns_is_left_alone() -> None:
    for style in ("shouting", "no_content", "chatml_system"):
        assert turns_of(styled_tokenizer(style)) is None


def test_a_system_message_that_the_template_adds_is_found(tmp_path: Path) -> None:
    turns = turns_of(tiny_tokenizer(tmp_path))
    assert turns is not None
    assert turns.default_system == DEFAULT_SYSTEM
    assert turns.system == ("<|im_start|>system\n", "<|im_end|>\n")
    assert turns.user == ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")


def test_ollama_gets_the_template_in_its_own_language(tmp_path: Path) -> None:
    text = modelfile(tiny_tokenizer(tmp_path), "model.gguf", [2], 512)
    assert text.splitlines() == [
        "FROM ./model.gguf",
        'TEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system',
        "{{ .Content }}<|im_end|>",
        '{{ else if eq .Role "user" }}<|im_start|>user',
        "{{ .Content }}<|im_end|>",
        "<|im_start|>assistant",
        '{{ else if eq .Role "assistant" }}{{ .Content }}<|im_end|>',
        '{{ end }}{{ end }}"""',
        f'SYSTEM """{DEFAULT_SYSTEM}"""',
        'PARAMETER stop "<|im_end|>"',
        "PARAMETER num_ctx 512",
    ]


def test_a_template_that_cannot_be_said_is_left_to_the_file() -> None:
    text = modelfile(styled_tokenizer("shouting"), "model.gguf", [], None)
    assert "TEMPLATE" not in text
    assert text.startswith("FROM ./model.gguf\n# The chat template of this model is more than a list of turns")


def test_foundry_gets_one_prompt(tmp_path: Path) -> None:
    write_inference_model(tmp_path, "routing", styled_tokenizer("llama3"))
    assert json.loads((tmp_path / "inference_model.json").read_text()) == {
        "Name": "routing",
        "PromptTemplate": {
            "assistant": "{Content}",
            "prompt": "<|start_header_id|>user<|end_header_id|>\n\n{Content}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        },
    }
    write_inference_model(tmp_path, "odd", styled_tokenizer("shouting"))
    assert json.loads((tmp_path / "inference_model.json").read_text())["PromptTemplate"] is None
