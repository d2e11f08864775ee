"""What cannot work, each with its reason: one table of predicates over a recipe and the facts about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tunesmith.errors import Problem, RecipeError
from tunesmith.recipe.budget import parse_budget
from tunesmith.recipe.facts import DataFacts, HostFacts, ModelFacts
from tunesmith.recipe.schema import Recipe
from tunesmith.recipe.techniques import Lora

# Tasks that put a question to the model and therefore need a chat template.
_ASKING = ("chat", "classification", "ner", "translation", "qa", "creative", "function_calling", "text_to_sql", "math")
LEARNED_BY_SFT = (*_ASKING, "text")


@dataclass(frozen=True)
class Facts:
    """All that a refusal may look at."""

    data: DataFacts
    model: ModelFacts
    host: HostFacts


@dataclass(frozen=True)
class Refusal:
    """One combination that cannot work: its code, the key it is about, why, and what to do instead."""

    code: str
    place: str
    reason: str
    hint: str
    applies: Callable[[Recipe, Facts], bool]


def _dropout(recipe: Recipe) -> bool:
    return isinstance(recipe.technique, Lora) and recipe.technique.dropout > 0


REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        "recipe.not_causal",
        "model",
        "this model does not continue texts, so it cannot learn answers",
        "choose a causal language model; `tunesmith models list` shows some",
        lambda _, facts: facts.model.kind != "causal",
    ),
    Refusal(
        "recipe.no_chat_template",
        "model",
        "the task asks questions, and the model has no chat template to ask them by",
        "choose an instruct model, or train on plain text with task: text",
        lambda _, facts: facts.data.task in _ASKING and not facts.model.has_chat_template,
    ),
    Refusal(
        "recipe.task_objective",
        "task",
        "the objective sft learns one answer to each question, and rows of this task are something else",
        f"tasks are {', '.join(LEARNED_BY_SFT)}",
        lambda _, facts: facts.data.task not in LEARNED_BY_SFT,
    ),
    Refusal(
        "recipe.max_length",
        "train.max_length",
        "rows may not be longer than what the model was made for",
        "lower it, or choose a model with a longer context",
        lambda recipe, facts: (
            recipe.train.max_length != "auto"
            and facts.model.context_length is not None
            and recipe.train.max_length > facts.model.context_length
        ),
    ),
    Refusal(
        "recipe.dropout_prefix",
        "train.share_prefix",
        "with dropout every row would draw its own numbers on the shared beginning, so sharing it changes the result",
        "set technique.dropout=0 or train.share_prefix=auto",
        lambda recipe, _: _dropout(recipe) and recipe.train.share_prefix is True,
    ),
    Refusal(
        "recipe.padded_prefix",
        "train.share_prefix",
        "one row at a time has nobody to share its beginning with",
        "set train.layout=packed or train.share_prefix=auto",
        lambda recipe, _: recipe.train.layout == "padded" and recipe.train.share_prefix is True,
    ),
    Refusal(
        "recipe.padded_micro_batch",
        "train.tokens_per_micro_batch",
        "with one row at a time there is nothing to bound: each row is a micro-batch",
        "set train.layout=packed, or leave train.tokens_per_micro_batch to auto",
        lambda recipe, _: recipe.train.layout == "padded" and recipe.train.tokens_per_micro_batch != "auto",
    ),
    Refusal(
        "recipe.budget_learning_curve",
        "evaluate.learning_curve",
        "the curve trains twice more, which a budget of time for the whole run leaves no room for",
        "give the budget in tokens, or set evaluate.learning_curve=false",
        lambda recipe, _: (
            recipe.evaluate.learning_curve
            and recipe.train.budget is not None
            and parse_budget(recipe.train.budget).seconds is not None
        ),
    ),
    Refusal(
        "recipe.no_rows",
        "data.train",
        "no row is left to learn from",
        "look at the data with `tunesmith check`",
        lambda _, facts: facts.data.rows < 1,
    ),
    Refusal(
        "recipe.no_held_out_rows",
        "data.validation",
        "no row is left to measure on",
        "give a validation file, or a larger share",
        lambda _, facts: facts.data.validation_rows < 1,
    ),
    Refusal(
        "recipe.text_answers",
        "evaluate.metrics",
        "plain text has no answers to compare; it is measured by loss and perplexity",
        "set evaluate.metrics=auto",
        lambda recipe, facts: facts.data.task == "text" and recipe.evaluate.metrics != "auto",
    ),
    Refusal(
        "recipe.text_few_shot",
        "evaluate.few_shot",
        "plain text has no questions of which examples could be shown",
        "set evaluate.few_shot=auto",
        lambda recipe, facts: facts.data.task == "text" and recipe.evaluate.few_shot not in ("auto", 0),
    ),
    Refusal(
        "recipe.text_max_new_tokens",
        "evaluate.max_new_tokens",
        "plain text has no answers whose length could be limited",
        "set evaluate.max_new_tokens=auto",
        lambda recipe, facts: facts.data.task == "text" and recipe.evaluate.max_new_tokens != "auto",
    ),
)


def check(recipe: Recipe, facts: Facts) -> None:
    """Refuse what cannot work.

    Raises:
        RecipeError: With one problem for each row of the table that applies.
    """
    found = [refusal for refusal in REFUSALS if refusal.applies(recipe, facts)]
    if found:
        problems = [Problem(one.code, one.reason, place=one.place, hint=one.hint) for one in found]
        raise RecipeError("this cannot work", problems=problems)
