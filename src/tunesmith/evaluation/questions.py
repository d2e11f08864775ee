"""The held-out rows as questions: prompts for each system, and token rows whose loss is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.data.label_rows import source_tokens
from tunesmith.data.render import render, render_prompt
from tunesmith.data.types import TokenRow
from tunesmith.evaluation.held_out import Item
from tunesmith.formats.examples import Conversation, Example
from tunesmith.tasks import EvaluationRow, PreparedTask


@dataclass(frozen=True)
class HeldOut:
    """What is measured: items of token rows for the loss, and the questions among them, each with its place.

    ``examples`` are what the questions were made of.
    """

    items: Sequence[Item]
    places: tuple[str, ...]
    questions: tuple[EvaluationRow, ...]
    examples: tuple[Example, ...] = ()

    @property
    def references(self) -> list[Any]:
        """What metrics compare answers with."""
        return [question.reference for question in self.questions]

    def take(self, chosen: Sequence[int]) -> HeldOut:
        """Some of the items, by index, with the questions that they hold."""
        items = [self.items[at] for at in chosen]
        places = {item[0].place for item in items}
        asked = [at for at, place in enumerate(self.places) if place in places]
        return HeldOut(
            items,
            tuple(self.places[at] for at in asked),
            tuple(self.questions[at] for at in asked),
            tuple(self.examples[at] for at in asked) if self.examples else (),
        )


@dataclass(frozen=True)
class Asked:
    """Prompts of one system, and the items whose loss it is measured by.

    Models with a head have no prompts; they are asked by ``rows``, made of ``examples``.
    """

    prompts: list[list[int]]
    items: Sequence[Item]
    rows: Sequence[TokenRow] = ()
    examples: Sequence[Example] = ()

    @property
    def tokens(self) -> int:
        """Tokens that a model reads for it."""
        of_rows = [row for item in self.items for row in item] + list(self.rows)
        return sum(map(len, self.prompts)) + sum(len(row.token_ids_T) for row in of_rows)


def ask_plainly(held_out: HeldOut, tokenizer: Any) -> Asked:
    """The questions as they are."""
    prompts = [render_prompt(tokenizer, question.messages, question.tools) for question in held_out.questions]
    return Asked(prompts, held_out.items)


def ask_head(held_out: HeldOut, tokenizer: Any) -> Asked:  # noqa: ARG001 - rows are tokens already
    """The questions as the labelled rows that they are."""
    rows = {item[0].place: item[0] for item in held_out.items}
    return Asked([], held_out.items, [rows[place] for place in held_out.places], held_out.examples)


def ask_encoder(held_out: HeldOut, tokenizer: Any) -> Asked:
    """The questions as the texts that a model with encoder and decoder reads."""
    prompts = [source_tokens(tokenizer, question.messages).tolist() for question in held_out.questions]
    return Asked(prompts, held_out.items)


def ask_with_examples(
    held_out: HeldOut, task: PreparedTask, examples: Sequence[Example], tokenizer: Any, *, most_tokens: int | None
) -> tuple[Asked, int]:
    """The questions behind solved examples; fewer examples where the longest prompt would not fit.

    Args:
        held_out: The questions.
        task: Words the examples.
        examples: Training examples, the best first.
        tokenizer: Of the model.
        most_tokens: Room for prompt and answer together; None for no limit.

    Returns:
        Prompts and loss rows, and how many examples there are in each.
    """
    for count in range(len(examples), 0, -1):
        conversations = [_with_examples(task, examples[:count], question) for question in held_out.questions]
        items = [
            (TokenRow(rendered.token_ids_T, rendered.trained_T, place),)
            for place, rendered in zip(
                held_out.places, (render(tokenizer, conversation) for conversation in conversations), strict=True
            )
        ]
        if most_tokens is None or max(len(row.token_ids_T) for (row,) in items) <= most_tokens:
            prompts = [
                render_prompt(tokenizer, conversation.messages[:-1], conversation.tools)
                for conversation in conversations
            ]
            return Asked(prompts, items), count
    return Asked([], []), 0


def _with_examples(task: PreparedTask, examples: Sequence[Example], question: EvaluationRow) -> Conversation:
    """A question with examples before it and its answer behind it; only what the plain row trains counts."""
    messages = task.few_shot_messages(examples, question)
    own = len([message for message in question.messages if message.role not in ("system", "developer")])
    first_own = len(messages) - own
    asked = [
        replace(message, trained=False) if number < first_own and message.role == "assistant" else message
        for number, message in enumerate(messages)
    ]
    return Conversation((*asked, question.answer), task.few_shot_tools(examples, question))
