"""Shapes made of texts: documents, labels, prompts, translations, questions."""

from __future__ import annotations

from typing import Any

from tunesmith.formats.examples import Document, LabelledText, PromptCompletion, QuestionAnswer, Translation
from tunesmith.formats.rows import RowProblem, clip
from tunesmith.formats.shapes.values import Fields, plain_word


def parse_text(fields: Fields) -> Document:
    """Raw text."""
    return Document(fields.text("text"))


def parse_text_label(fields: Fields) -> LabelledText:
    """A text and its label; a number or truth value as a label is written out."""
    text = fields.text("text")
    value = fields.get("label")
    if isinstance(value, list):
        if len(value) != 1:
            raise RowProblem("several_labels", f"exactly one label is needed, found {len(value)}: {clip(value)}")
        value = value[0]
    if value is None or (isinstance(value, str) and not value.strip()):
        raise RowProblem("missing_label", f"no label in column `{fields.columns['label']}`")
    label = plain_word(value)
    if label is None:
        raise RowProblem("data_type", f"the label must be a text or a number, found {clip(value)}")
    return LabelledText(text, label.strip())


def joined_prompt(prompt: str, extra: str | None) -> str:
    """An instruction and its input as one prompt."""
    return prompt if extra is None else f"{prompt}\n\n{extra}"


def parse_prompt_completion(fields: Fields) -> PromptCompletion:
    """Prompt and completion, or Alpaca's instruction, input and output."""
    prompt = joined_prompt(fields.text("prompt"), fields.optional_text("input"))
    return PromptCompletion(prompt, fields.text("completion"), fields.optional_text("system"))


def parse_translation(fields: Fields) -> Translation:
    """Source and target, or one object with two languages, of which the first is the source."""
    if not fields.has("translation"):
        source, target = fields.text("source"), fields.text("target")
        return Translation(
            source, target, fields.optional_text("source_language"), fields.optional_text("target_language")
        )
    value = fields.get("translation")
    if not isinstance(value, dict):
        raise RowProblem("data_type", f"`translation` must be an object of two languages, found {clip(value)}")
    pairs = [(language, text) for language, text in value.items() if text is not None]
    if len(pairs) != 2:
        raise RowProblem("not_two_languages", f"`translation` must hold two languages, found {clip(list(value))}")
    for language, text in pairs:
        if not isinstance(text, str) or not text.strip():
            raise RowProblem("empty_translation", f"no text in language `{language}`")
    (source_language, source), (target_language, target) = pairs
    return Translation(source, target, str(source_language), str(target_language))


def parse_question_answer(fields: Fields) -> QuestionAnswer:
    """A question with its accepted answers, each kept once and in order, and its context if there is one.

    A list without answers, or ``is_impossible``, says that the context does not answer the question.
    """
    question = fields.text("question")
    context = fields.optional_text("context")
    written = fields.get("answers")
    starts: dict[str, int | None] = {}
    for value, start in _answer_values(written):
        answer = plain_word(value)
        if answer is None:
            raise RowProblem("data_type", f"an answer must be a text, found {clip(value)}")
        if answer.strip():
            starts.setdefault(answer, start if isinstance(start, int) and not isinstance(start, bool) else None)
    if context is not None and (fields.row.get("is_impossible") is True or _is_empty_list(written)):
        return QuestionAnswer(question, (), context)
    if not starts:
        raise RowProblem("missing_answer", f"no answer in column `{fields.columns['answers']}`")
    told = tuple(starts.values())
    return QuestionAnswer(question, tuple(starts), context, () if set(told) == {None} else told)


def _is_empty_list(written: Any) -> bool:
    return written == [] or (isinstance(written, dict) and written.get("text") == [])


def _answer_values(value: Any) -> list[tuple[Any, Any]]:
    """The answers of all the ways in which answers are written, each with its start where there is one."""
    if value is None:
        return []
    if isinstance(value, dict):
        if "text" not in value:
            raise RowProblem("data_type", f"`answers` must have `text`, found {clip(list(value))}")
        texts, starts = _as_list(value["text"]), _as_list(value.get("answer_start"))
        return list(zip(texts, starts if len(starts) == len(texts) else [None] * len(texts), strict=True))
    return [
        (item.get("text"), item.get("answer_start")) if isinstance(item, dict) else (item, None)
        for item in _as_list(value)
    ]


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
