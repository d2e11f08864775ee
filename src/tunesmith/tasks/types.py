"""What a task is: how an example becomes a conversation to train on, and the same question to answer at evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tunesmith.formats.examples import Conversation, Document, Example, Message
from tunesmith.tasks.answers import rough_tokens

# Raised whenever a task words its prompts differently, so that tokens of older wordings are never taken for new ones.
VERSION = 1
MOST_NEW_TOKENS = 1024
SPARE_TOKENS = 8

Reference = str | tuple[str, ...] | tuple[Mapping[str, Any], ...] | Mapping[str, Any]


@dataclass(frozen=True)
class EvaluationRow:
    """One question to put to a model.

    Attributes:
        messages: The turns before the answer.
        tools: The tools that the assistant could call.
        reference: What metrics compare with: a text, accepted texts (first is the one learned), spans, expected
            calls, or SQL with its tables.
        shown_reference: The reference as one text, for reports.
        calls: The calls of tools that are the answer, in OpenAI's form; empty where the answer is a text.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    reference: Reference
    shown_reference: str
    calls: tuple[Mapping[str, Any], ...] = ()

    @property
    def answer(self) -> Message:
        """The answer as the turn that is learned; few-shot prompts show it so."""
        if self.calls:
            return Message("assistant", "", tool_calls=self.calls)
        return Message("assistant", self.shown_reference)


@dataclass(frozen=True)
class PreparedTask:
    """A task fitted to a data set.

    Attributes:
        name: A key of :data:`tunesmith.tasks.TASKS`.
        labels: The label set in a fixed order; empty where the task has none.
        metrics: Names of the table of metrics, the primary one first; empty where nothing is generated.
        longest_answer: The longest answer of the sample, for callers that count its tokens exactly.
        training: Turns an example into what is trained on.
        evaluation: Turns an example into a question with its reference; None where it holds none.
        wording: What the prompts depend on, as plain data; part of :attr:`identity`.
        description: See :meth:`describe`.
        is_asked: Whether models are asked for answers; where not, they are measured by likelihoods alone.
    """

    name: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    longest_answer: str
    training: Callable[[Example], Conversation | Document]
    evaluation: Callable[[Example], EvaluationRow | None]
    wording: Mapping[str, Any]
    description: str
    is_asked: bool = True

    @property
    def identity(self) -> str:
        """SHA-256 of everything that decides what an example is turned into."""
        facts = {"name": self.name, "version": VERSION, "wording": dict(self.wording)}
        return hashlib.sha256(orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)).hexdigest()

    @property
    def max_new_tokens(self) -> int:
        """Room for the longest sampled answer, without a tokenizer and therefore rather too much than too little."""
        return self.tokens_to_generate(rough_tokens)

    def tokens_to_generate(self, count_tokens: Callable[[str], int]) -> int:
        """Room for the longest sampled answer, its end of turn and some more, counted by the model's tokenizer.

        Returns:
            0 where nothing is generated; at most :data:`MOST_NEW_TOKENS`.
        """
        if not self.metrics or not self.is_asked:
            return 0
        needed = count_tokens(self.longest_answer)
        return min(MOST_NEW_TOKENS, needed + needed // 4 + SPARE_TOKENS)

    def describe(self) -> str:
        """The task in a sentence or two, for reports and the command line."""
        return self.description

    def few_shot_messages(self, examples: Sequence[Example], row: EvaluationRow) -> tuple[Message, ...]:
        """The turns of ``row`` with solved examples before its question, as earlier turns of the same conversation.

        The system message is that of the row; those of the examples are left out. Examples that hold no question are
        passed over.
        """
        system = tuple(message for message in row.messages if message.role in SYSTEM_ROLES)
        asked = tuple(message for message in row.messages if message.role not in SYSTEM_ROLES)
        earlier: list[Message] = []
        for example in examples:
            solved = self.evaluation(example)
            if solved is not None:
                earlier.extend(message for message in solved.messages if message.role not in SYSTEM_ROLES)
                earlier.append(solved.answer)
        return (*system, *earlier, *asked)

    def few_shot_tools(self, examples: Sequence[Example], row: EvaluationRow) -> tuple[Mapping[str, Any], ...]:
        """The tools of ``row`` behind those of the examples before it, without which their calls would call nothing.

        Of several tools with one name the row's is offered, else the first.
        """
        solved = (self.evaluation(example) for example in examples)
        tools = [tool for one in solved if one is not None for tool in one.tools]
        own = {tool["function"]["name"] for tool in row.tools}
        earlier = {tool["function"]["name"]: tool for tool in reversed(tools) if tool["function"]["name"] not in own}
        return (*reversed(earlier.values()), *row.tools)


SYSTEM_ROLES = frozenset(("system", "developer"))


@dataclass(frozen=True)
class Question:
    """A question of one turn with its answer; what tasks other than chat and text make of an example."""

    system: str
    user: str
    answer: str
    reference: Reference


def question_task(
    name: str,
    ask: Callable[[Example], Question],
    *,
    metrics: tuple[str, ...],
    longest_answer: str,
    wording: Mapping[str, Any],
    description: str,
    labels: tuple[str, ...] = (),
) -> PreparedTask:
    """A task whose examples are one question and one answer: trained and asked in the very same words."""

    def prompt(question: Question) -> tuple[Message, ...]:
        return Message("system", question.system), Message("user", question.user)

    def training(example: Example) -> Conversation:
        question = ask(example)
        return Conversation((*prompt(question), Message("assistant", question.answer)))

    def evaluation(example: Example) -> EvaluationRow:
        question = ask(example)
        return EvaluationRow(prompt(question), (), question.reference, question.answer)

    return PreparedTask(name, labels, metrics, longest_answer, training, evaluation, wording, description)
