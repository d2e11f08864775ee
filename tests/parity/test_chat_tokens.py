"""The owner of truth is the tokenizer's own chat template: our tokens are its tokens, whatever the messages hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from chat_templates import STYLES, styled_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.render import Note, render, render_prompt, render_texts
from tunesmith.data.render import render_conversation as text_of
from tunesmith.data.template import chat_template
from tunesmith.formats.examples import Conversation, Document, Message

MARKERS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|im_end|>\n<|im_start|>assistant\n",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|end|>",
    "</s>",
    "[/INST]",
    "assistant\n",
]
PLAIN = st.text(
    st.characters(exclude_categories=["Cs", "Cn", "Co"], exclude_characters="\u2581\0"), min_size=1, max_size=12
)
PIECE = st.sampled_from([*MARKERS, "\n", "\n\n", " ", "  ", "\r\n", "😀", "漢字", "é", '{"a": 1}', "a", "."]) | PLAIN
CONTENT = st.lists(PIECE, min_size=1, max_size=5).map("".join).filter(lambda text: text.strip() != "")


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    messages = [Message("system", draw(CONTENT))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(CONTENT)))
        messages.append(Message("assistant", draw(CONTENT), trained=draw(st.booleans())))
    return Conversation(tuple(messages))


def own_tokens(tokenizer: Any, conversation: Conversation) -> list[int]:
    messages = chat_template(tokenizer).messages(conversation.messages)
    return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False))


def bare(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(conversation=conversations())
def test_tokens_are_the_template_s_own_and_only_answers_train(style: str, conversation: Conversation) -> None:
    tokenizer = styled_tokenizer(style)
    row = render(tokenizer, conversation)
    assert row.token_ids_T.tolist() == own_tokens(tokenizer, conversation)
    assert not row.trained_T[0]
    answers = [m.content for m in conversation.messages if m.role == "assistant" and m.trained]
    trained = tokenizer.decode(row.token_ids_T[row.trained_T].tolist(), skip_special_tokens=False)
    end = chat_template(tokenizer).end_of_turn
    assert end is not None
    expected = "".join(bare(answer) + end for answer in answers)
    assert bare(trained).replace("<think></think>", "") == expected.replace("<think></think>", "")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(conversation=conversations())
def test_forged_turns_do_not_train(conversation: Conversation) -> None:
    """Of a ChatML text written by hand, exactly the tokens inside the true answers train."""
    tokenizer = styled_tokenizer("chatml")
    row = render(tokenizer, conversation)
    text, spans = "", []
    for message in conversation.messages:
        text += f"<|im_start|>{message.role}\n"
        start = len(text)
        text += f"{message.content}<|im_end|>"
        if message.role == "assistant" and message.trained:
            spans.append((start, len(text)))
        text += "\n"
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    inside = [any(start < b and end > a for a, b in spans) for start, end in offsets]
    assert row.text == text
    assert row.trained_T.tolist() == inside


@pytest.mark.parametrize("style", STYLES)
def test_an_answer_starts_where_its_prompt_ends(style: str) -> None:
    tokenizer = styled_tokenizer(style)
    asked = (Message("user", "Where is Paris?"),)
    row = render(tokenizer, Conversation((*asked, Message("assistant", "In France."))))
    prompt = render_prompt(tokenizer, asked)
    own = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Where is Paris?"}], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert prompt == list(own)
    assert row.token_ids_T[: len(prompt)].tolist() == prompt
    assert int(np.flatnonzero(row.trained_T)[0]) == len(prompt)
    assert Note.PROMPT_DIFFERS not in row.notes


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(contents=st.lists(st.tuples(CONTENT, CONTENT), min_size=3, max_size=8))
def test_rows_that_share_an_instruction_get_the_tokens_they_get_alone(
    style: str, contents: list[tuple[str, str]]
) -> None:
    tokenizer = styled_tokenizer(style)
    template = chat_template(tokenizer)
    system = Message("system", "Choose one of these: " + ", ".join(f"label {n}" for n in range(20)))
    rows = [Conversation((system, Message("user", user), Message("assistant", answer))) for user, answer in contents]
    together = render_texts(tokenizer, [text_of(template, row) for row in rows])
    for found, row in zip(together, rows, strict=True):
        alone = render(tokenizer, row)
        assert found.token_ids_T.tolist() == alone.token_ids_T.tolist() == own_tokens(tokenizer, row)
        assert found.trained_T.tolist() == alone.trained_T.tolist()


@pytest.mark.parametrize("style", STYLES)
def test_documents_are_the_tokenizer_s_own_tokens_and_an_end(style: str) -> None:
    tokenizer = styled_tokenizer(style)
    row = render(tokenizer, Document("The capital\n of France 😀"))
    own = tokenizer("The capital\n of France 😀")["input_ids"]
    assert row.token_ids_T.tolist() == [*own, tokenizer.eos_token_id]
    assert row.trained_T.tolist() == [False, *[True] * len(own)]


@pytest.fixture(scope="module")
def starter(starter_model: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(starter_model)


@pytest.mark.starter
@settings(max_examples=60, deadline=None, derandomize=True)
@given(conversation=conversations())
def test_the_starter_model_s_tokens(starter: Any, conversation: Conversation) -> None:
    row = render(starter, conversation)
    assert row.token_ids_T.tolist() == own_tokens(starter, conversation)
    answers = [m.content for m in conversation.messages if m.role == "assistant" and m.trained]
    trained = starter.decode(row.token_ids_T[row.trained_T].tolist(), skip_special_tokens=False)
    # Its vocabulary lacks a few bytes, and what is lost in any text is lost here too.
    known = [starter.decode(starter(answer)["input_ids"], skip_special_tokens=False) for answer in answers]
    assert bare(trained) == "".join(bare(answer) + "<|im_end|>" for answer in known)
