"""What cannot work, each with its reason: one table of predicates over a recipe and the facts about it."""

from __future__ import annotations

from tunesmith.errors import Problem, RecipeError
from tunesmith.recipe.budget import parse_budget
from tunesmith.recipe.export_refusals import OF_EXPORTS
from tunesmith.recipe.fitting import objective_of
from tunesmith.recipe.objectives import HEADS, PREFERENCE
from tunesmith.recipe.refusal import Facts, Refusal
from tunesmith.recipe.schema import Recipe
from tunesmith.recipe.strategies import OF_STRATEGIES
from tunesmith.recipe.techniques import (
    LEARN_TOKENS,
    MOVING,
    OWN_WEIGHTS,
    VIRTUAL_TOKENS,
    draws_in_training,
)

# Tasks that put a question to the model and therefore need a chat template.
_ASKING = ("chat", "classification", "ner", "translation", "qa", "creative", "function_calling", "text_to_sql", "math")
LEARNED_BY_SFT = (*_ASKING, "text")
# Tasks whose rows are measured by likelihoods alone.
_UNASKED = ("text", "preference")
_PAIR_METRICS, _RATED_METRICS = ("pair_accuracy", "margin"), ("wanted_likelier", "wanted_margin")


def _dropout(recipe: Recipe) -> bool:
    return draws_in_training(recipe.technique) or recipe.train.neftune_alpha is not None


def _initialization(recipe: Recipe) -> str:
    return getattr(recipe.technique, "initialization", "default")


def _compares_with_base(recipe: Recipe, facts: Facts) -> bool:
    """Whether the loss asks the model what it would say without its adapter."""
    if recipe.objective == "auto":
        return facts.data.task == "preference"
    return recipe.objective.name in ("dpo", "kto")


def _objective(recipe: Recipe) -> str:
    return "auto" if recipe.objective == "auto" else recipe.objective.name


def _needs_reference(recipe: Recipe, facts: Facts) -> bool:
    # Where nothing is named, pairs are learned without a reference if there is none; ratings cannot be.
    return _objective(recipe) in ("dpo", "kto") or (_objective(recipe) == "auto" and facts.data.shape == "rated")


def _foreign_metrics(recipe: Recipe, facts: Facts) -> bool:
    if recipe.evaluate.metrics == "auto":
        return False
    if facts.data.task != "preference":
        return any(metric in _PAIR_METRICS + _RATED_METRICS for metric in recipe.evaluate.metrics)
    own = _RATED_METRICS if facts.data.shape == "rated" else _PAIR_METRICS
    return any(metric not in own for metric in recipe.evaluate.metrics)


_HEAD_TASKS = {"sequence_classification": "classification", "token_classification": "ner", "question_answering": "qa"}


def _fitted(recipe: Recipe, facts: Facts) -> str:
    """The objective that the recipe means, or that fits where it leaves it open."""
    return objective_of(recipe, task=facts.data.task, shape=facts.data.shape, model_kind=facts.model.kind).name


REFUSALS: tuple[Refusal, ...] = (
    *OF_STRATEGIES,
    *OF_EXPORTS,
    Refusal(
        "recipe.not_causal",
        "model",
        "this model does not continue texts, so it cannot learn answers",
        "choose a causal language model; `tunesmith models list` shows some",
        lambda recipe, facts: facts.model.kind != "causal" and _fitted(recipe, facts) not in (*HEADS, "seq2seq"),
    ),
    Refusal(
        "recipe.head_rows",
        "objective",
        "a head learns labels of texts, tags of words or answers in a context, and these rows have no such thing",
        "heads are sequence_classification for task classification, token_classification for task ner, "
        "question_answering for task qa with contexts",
        lambda recipe, facts: (
            _fitted(recipe, facts) in HEADS
            and facts.data.task not in (_HEAD_TASKS[_fitted(recipe, facts)], "preference")
        ),
    ),
    Refusal(
        "recipe.head_context",
        "objective",
        "this head marks the answer in a context, and these questions have none",
        "give a column context, or learn to write the answers with objective: sft",
        lambda recipe, facts: (
            _fitted(recipe, facts) == "question_answering" and facts.data.task == "qa" and not facts.data.has_context
        ),
    ),
    Refusal(
        "recipe.seq2seq_model",
        "objective",
        "this objective reads a text with an encoder and writes another with a decoder, and the model has not both",
        "set objective=auto, or choose a model such as T5",
        lambda recipe, facts: _fitted(recipe, facts) == "seq2seq" and facts.model.kind != "encoder_decoder",
    ),
    Refusal(
        "recipe.seq2seq_task",
        "task",
        "this model reads one text and writes another, and these rows are not made of two",
        f"tasks are {', '.join(_ASKING)}",
        lambda recipe, facts: _fitted(recipe, facts) == "seq2seq" and facts.data.task not in _ASKING,
    ),
    Refusal(
        "recipe.encoder_prefix",
        "train.share_prefix",
        "each token of this model sees what follows it, so beginnings that read alike are not alike inside",
        "set train.share_prefix=auto",
        lambda recipe, facts: facts.model.kind != "causal" and recipe.train.share_prefix is True,
    ),
    Refusal(
        "recipe.no_chat_template",
        "model",
        "the task asks questions, and the model has no chat template to ask them by",
        "choose an instruct model, or train on plain text with task: text",
        lambda recipe, facts: (
            facts.data.task in (*_ASKING, "preference")
            and not facts.model.has_chat_template
            and facts.model.kind == "causal"
            and _fitted(recipe, facts) not in HEADS
        ),
    ),
    Refusal(
        "recipe.task_objective",
        "objective",
        "this objective learns answers that are right, and these rows are answers that people preferred or rated",
        f"objectives for them are {', '.join(PREFERENCE)}; to learn one of two answers, name it in data.columns",
        lambda recipe, facts: facts.data.task == "preference" and _objective(recipe) not in ("auto", *PREFERENCE),
    ),
    Refusal(
        "recipe.no_preferences",
        "objective",
        "this objective learns what people prefer, and these rows do not say it",
        "set objective=auto, or give rows with columns chosen and rejected, or prompt, completion and label",
        lambda recipe, facts: facts.data.task != "preference" and _objective(recipe) in PREFERENCE,
    ),
    Refusal(
        "recipe.unpaired",
        "objective",
        "this objective compares two answers to the same prompt, and each of these rows has one",
        "set objective=kto",
        lambda recipe, facts: facts.data.shape == "rated" and _objective(recipe) in ("dpo", "orpo"),
    ),
    Refusal(
        "recipe.no_reference",
        "technique",
        "the loss compares with the model before training, and this technique trains the model's own weights",
        "choose technique: lora, or learn pairs with objective: orpo, which compares with nothing",
        lambda recipe, facts: (
            recipe.technique.name in OWN_WEIGHTS and facts.data.task == "preference" and _needs_reference(recipe, facts)
        ),
    ),
    Refusal(
        "recipe.ipo_smoothing",
        "objective",
        "the loss of IPO has no label smoothing",
        "leave label_smoothing out, or take the sigmoid loss",
        lambda recipe, _: (
            recipe.objective != "auto"
            and recipe.objective.name == "dpo"
            and recipe.objective.loss == "ipo"
            and recipe.objective.label_smoothing > 0
        ),
    ),
    Refusal(
        "recipe.pair_metrics",
        "evaluate.metrics",
        f"{' and '.join(_PAIR_METRICS)} measure pairs of a chosen and a rejected answer, "
        f"{' and '.join(_RATED_METRICS)} rated answers, and nothing else does",
        "set evaluate.metrics=auto",
        _foreign_metrics,
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
        "with dropout or noise every row draws its own numbers on the shared beginning, so sharing changes the result",
        "leave dropout and noise out, or set train.share_prefix=auto",
        lambda recipe, _: _dropout(recipe) and recipe.train.share_prefix is True,
    ),
    Refusal(
        "recipe.loftq",
        "technique.initialization",
        "loftq makes up for what quantization loses, and this technique keeps the model's weights whole",
        "choose technique: qlora, or set technique.initialization=default",
        lambda recipe, _: _initialization(recipe) == "loftq" and recipe.technique.name in ("lora", "dora"),
    ),
    Refusal(
        "recipe.quantized_beginning",
        "technique.initialization",
        "this beginning takes a part out of whole weights, and quantized ones are not whole",
        "set technique.initialization to default, gaussian, eva or loftq, or take technique: lora",
        lambda recipe, _: _initialization(recipe) in MOVING and hasattr(recipe.technique, "quantization"),
    ),
    Refusal(
        "recipe.loftq_bits",
        "technique.initialization",
        "loftq makes up for what four bits lose, and int8 has eight",
        "set technique.initialization=default, or quantize to nf4",
        lambda recipe, _: (
            _initialization(recipe) == "loftq" and getattr(recipe.technique, "quantization", None) == "int8"
        ),
    ),
    Refusal(
        "recipe.double_quantization",
        "technique",
        "only nf4 has scales of blocks that could be quantized again",
        "leave double_quantization out, or quantize to nf4",
        lambda recipe, _: (
            getattr(recipe.technique, "quantization", None) == "int8"
            and "double_quantization" in recipe.technique.model_fields_set
            and bool(getattr(recipe.technique, "double_quantization", False))
        ),
    ),
    Refusal(
        "recipe.noisy_reference",
        "train.neftune_alpha",
        "the loss compares with the model before training, and noise would make both of them another model",
        "leave train.neftune_alpha out, or learn pairs with objective: orpo",
        lambda recipe, facts: recipe.train.neftune_alpha is not None and _fitted(recipe, facts) in ("dpo", "kto"),
    ),
    Refusal(
        "recipe.paged_optimizer",
        "train.optimizer",
        "paging moves moments between a GPU and the host, and there is no GPU here",
        "set train.optimizer=adamw_8bit",
        lambda recipe, facts: recipe.train.optimizer == "paged_adamw_8bit" and facts.host.device == "cpu",
    ),
    Refusal(
        "recipe.schedule_free",
        "train.schedule",
        "the optimizer averages weights in place of a falling rate, and both together end too early",
        "leave train.schedule out, or set train.optimizer=adamw",
        lambda recipe, _: (
            recipe.train.optimizer == "schedule_free_adamw"
            and "schedule" in recipe.train.model_fields_set
            and recipe.train.schedule != "constant"
        ),
    ),
    Refusal(
        "recipe.virtual_targets",
        "technique",
        "virtual tokens stand before the text and change no layer, so there are no targets to name",
        "leave targets out",
        lambda recipe, _: (
            recipe.technique.name in VIRTUAL_TOKENS and getattr(recipe.technique, "targets", "auto") != "auto"
        ),
    ),
    Refusal(
        "recipe.virtual_head",
        "technique",
        "virtual tokens are learned in front of texts that are written, and this objective reads with a head",
        "choose technique: lora",
        lambda recipe, facts: (
            recipe.technique.name in VIRTUAL_TOKENS
            and (facts.model.kind != "causal" or (recipe.objective != "auto" and recipe.objective.name in HEADS))
        ),
    ),
    Refusal(
        "recipe.virtual_padded",
        "train.layout",
        "virtual tokens are the shared beginning of a pack",
        "set train.layout=packed, or choose technique: lora",
        lambda recipe, _: recipe.technique.name in VIRTUAL_TOKENS and recipe.train.layout == "padded",
    ),
    Refusal(
        "recipe.moved_reference",
        "technique.initialization",
        "the loss compares with the model without its adapter, and this beginning moves a part of the model into it",
        "set technique.initialization=default",
        lambda recipe, facts: _initialization(recipe) in MOVING and _compares_with_base(recipe, facts),
    ),
    Refusal(
        "recipe.new_tokens",
        "data.new_tokens",
        "new tokens need rows of the embeddings that train, and this technique leaves them as they are",
        f"techniques that train them are {', '.join(LEARN_TOKENS)}",
        lambda recipe, _: bool(recipe.data.new_tokens) and recipe.technique.name not in LEARN_TOKENS,
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
        "recipe.likelihoods_beside",
        "evaluate",
        "general text and multiple choice ask how likely a text is, which only models that continue texts can say",
        "leave evaluate.probe and evaluate.multiple_choice out",
        lambda recipe, facts: (
            (recipe.evaluate.probe is True or recipe.evaluate.multiple_choice is not None)
            and _fitted(recipe, facts) in (*HEADS, "seq2seq")
        ),
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
        "recipe.two_step_sizes",
        "train.rows_per_step",
        "a step has so many rows or so many tokens",
        "leave one of train.rows_per_step and train.tokens_per_step to auto",
        lambda recipe, _: recipe.train.rows_per_step != "auto" and recipe.train.tokens_per_step != "auto",
    ),
    Refusal(
        "recipe.multiplied_rate",
        "train.learning_rate_multiplier",
        "it multiplies the rate that is chosen for learning_rate: auto, and a rate is given",
        "leave one of the two out",
        lambda recipe, _: recipe.train.learning_rate_multiplier != 1 and recipe.train.learning_rate != "auto",
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
        "rows of this task hold no questions of which examples could be shown",
        "set evaluate.few_shot=auto",
        lambda recipe, facts: facts.data.task in _UNASKED and recipe.evaluate.few_shot not in ("auto", 0),
    ),
    Refusal(
        "recipe.text_max_new_tokens",
        "evaluate.max_new_tokens",
        "for rows of this task no answers are written whose length could be limited",
        "set evaluate.max_new_tokens=auto",
        lambda recipe, facts: facts.data.task in _UNASKED and recipe.evaluate.max_new_tokens != "auto",
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
