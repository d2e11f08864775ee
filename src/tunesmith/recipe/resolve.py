"""Resolve every ``auto`` of a recipe from facts, each with a reason that a reader can check.

The rules here are rules of thumb that were tried on small models; a user's own value always wins.
"""

from __future__ import annotations

import math
from typing import Any

from tunesmith.recipe.budget import Budget, parse_budget
from tunesmith.recipe.cost import Cost, estimate_cost
from tunesmith.recipe.facts import DataFacts, HostFacts, ModelFacts
from tunesmith.recipe.fitting import objective_of
from tunesmith.recipe.objectives import ObjectiveSpec
from tunesmith.recipe.packing import (
    SHORTEST_SHARED_PREFIX,
    USUAL_EPOCHS,
    is_long,
    largest_pack,
    rows_a_beginning,
    rows_a_step,
    rows_together,
)
from tunesmith.recipe.parts import Part
from tunesmith.recipe.reasons import ASKED, Reasons
from tunesmith.recipe.resolve_host import choose_checkpointing, choose_micro_batch, choose_precision, choose_strategy
from tunesmith.recipe.resolved import Resolved
from tunesmith.recipe.schema import Recipe
from tunesmith.recipe.techniques import OWN_WEIGHTS, draws_in_training

MOST_TRAINING_SECONDS = 25 * 60
MOST_EVALUATION_ROWS = 200
FEWEST_EVALUATION_ROWS = 20
MOST_EVALUATION_SECONDS = 240.0
EVALUATION_SHARE = 0.25
# Answers are not cut below this, whatever a budget says; and only where they would take much more than their share.
FEWEST_NEW_TOKENS = 32
_SPARE = 1.5
# A model that was not trained to end long answers goes on to the end of their room.
_ROOM_OF_LONG = 1.0
MOST_FEW_SHOT = 5
MOST_FEW_SHOT_TOKENS = 1024
CHECKPOINT_SECONDS = 180.0
VALIDATIONS = 4
# Lion's steps are all of full size.
OPTIMIZER_RATES = {"lion_8bit": 0.3}
METHOD_RATES = {
    "c3a": 10.0,
    "fourierft": 10.0,
    "ia3": 5.0,
    "ln_tuning": 2.0,
    "lokr": 2.0,
    "loha": 2.0,
    "p_tuning": 5.0,
    "prefix_tuning": 10.0,
    "prompt_tuning": 20.0,
    "pvera": 4.0,
    "randlora": 2.0,
    "supertuning": 2.0,
    "tinylora": 2.0,
    "unilora": 4.0,
    "vblora": 5.0,
    "vera": 4.0,
    "waveft": 10.0,
}
# How many times lower the rate is than for learning answers.
PREFERENCE_SLOWER = {"dpo": 3.0, "kto": 3.0, "orpo": 3.0}
# Pieces that long texts are learned in: attention is then a small part of a step.
PIECE_TOKENS = 1024
_KIND_WORDS = {
    "causal": "a model that continues texts",
    "encoder": "an encoder",
    "encoder_decoder": "a model with encoder and decoder",
}


def resolve(recipe: Recipe, data: DataFacts, model: ModelFacts, host: HostFacts) -> Resolved:
    """Choose every value that the recipe leaves open. What cannot work was refused before; see refusals.

    Args:
        recipe: What was asked for.
        data: The training data in tokens.
        model: The model.
        host: This machine.
    """
    train, reasons = recipe.train, Reasons()
    said = reasons.give
    budget = Budget() if train.budget is None else parse_budget(train.budget)
    strategy = choose_strategy(recipe, data, model, host, reasons)
    share, not_shared = _share_prefix(recipe, model)
    micro_batch = choose_micro_batch(recipe, data, model, host, strategy=strategy, share=share, reasons=reasons)
    share = said("train.share_prefix", share, not_shared or _how_shared(data, micro_batch))
    together = rows_together(recipe, data, micro_batch) if share else None
    cost = estimate_cost(data, model, host, full=recipe.technique.name == "full", rows_together=together)
    epochs = _epochs(recipe, data, budget, cost, reasons)
    rows = epochs * data.rows
    if budget.seconds:
        rows = min(rows, budget.seconds * (1 - EVALUATION_SHARE) / cost.train_seconds_per_row)
    tokens_per_step = _tokens_per_step(recipe, data, rows, pack_tokens=micro_batch if share else None, reasons=reasons)
    steps = max(1, round(rows * data.mean_row_tokens / tokens_per_step))
    evaluation_rows, new_tokens = _evaluation(recipe, data, budget, cost, reasons)
    task_reason = ASKED if recipe.task != "auto" else f"auto: rows are of shape {data.shape}"
    return Resolved(
        model=said("model", recipe.model, ASKED),
        task=said("task", data.task, task_reason),
        objective=_objective(recipe, data, model, reasons),
        technique=said("technique", recipe.technique, _source(recipe, "technique")),
        seed=said("train.seed", train.seed, _source(train, "seed")),
        epochs=epochs,
        budget_seconds=said(
            "train.budget_seconds", budget.seconds, f"train.budget is {train.budget}" if train.budget else "no budget"
        ),
        learning_rate=_learning_rate(recipe, data, model, reasons),
        optimizer=said("train.optimizer", train.optimizer, _source(train, "optimizer")),
        schedule=_schedule(recipe, reasons),
        warmup=said("train.warmup", train.warmup, _source(train, "warmup")),
        weight_decay=said("train.weight_decay", train.weight_decay, _source(train, "weight_decay")),
        clip=said("train.clip", train.clip, _source(train, "clip")),
        tokens_per_step=tokens_per_step,
        sampler=said("train.sampler", train.sampler, _source(train, "sampler")),
        max_length=_max_length(recipe, data, model, reasons),
        neftune_alpha=said("train.neftune_alpha", train.neftune_alpha, _source(train, "neftune_alpha")),
        patience=said("train.patience", train.patience, _source(train, "patience")),
        on_non_finite=said("train.on_non_finite", train.on_non_finite, _source(train, "on_non_finite")),
        metrics=_metrics(recipe, data, reasons),
        samples=said(
            "evaluate.samples",
            min(recipe.evaluate.samples, evaluation_rows),
            f"{_source(recipe.evaluate, 'samples')}, as far as rows are measured",
        ),
        evaluation_rows=evaluation_rows,
        few_shot=_few_shot(recipe, data, model, reasons),
        max_new_tokens=new_tokens,
        probe=_probe(recipe, data, model, reasons),
        multiple_choice=said(
            "evaluate.multiple_choice",
            recipe.evaluate.multiple_choice,
            _source(recipe.evaluate, "multiple_choice"),
        ),
        learning_curve=said(
            "evaluate.learning_curve", recipe.evaluate.learning_curve, _source(recipe.evaluate, "learning_curve")
        ),
        strategy=strategy,
        devices=said("train.devices", train.devices, _source(train, "devices")),
        nodes=said("train.nodes", train.nodes, _source(train, "nodes")),
        offload=said("train.offload", train.offload, _source(train, "offload")),
        precision=choose_precision(recipe, host, reasons),
        tokens_per_micro_batch=micro_batch,
        activation_checkpointing=choose_checkpointing(
            recipe,
            model,
            host,
            strategy=strategy,
            tokens=largest_pack(data, micro_batch, tokens_per_step, share=share),
            reasons=reasons,
        ),
        layout=said("train.layout", train.layout, _source(train, "layout")),
        share_prefix=share,
        checkpoint_every_steps=_checkpoint_every(recipe, cost, tokens_per_step, steps, reasons),
        keep_checkpoints=said("train.keep_checkpoints", train.keep_checkpoints, _source(train, "keep_checkpoints")),
        validate_every_steps=_validate_every(recipe, steps, reasons),
        reasons=reasons.said,
    )


def _source(part: Part, name: str) -> str:
    """Whether a value was given or is what it is unless given."""
    return ASKED if name in part.model_fields_set else "the default"


def _fitting(recipe: Recipe, data: DataFacts, model: ModelFacts) -> ObjectiveSpec:
    return objective_of(recipe, task=data.task, shape=data.shape, model_kind=model.kind)


def _objective(recipe: Recipe, data: DataFacts, model: ModelFacts, reasons: Reasons) -> Any:
    reason = f"auto: fits task {data.task} on {_KIND_WORDS[model.kind]}"
    return reasons.give("objective", _fitting(recipe, data, model), ASKED if recipe.objective != "auto" else reason)


def _share_prefix(recipe: Recipe, model: ModelFacts) -> tuple[bool, str | None]:
    """Whether beginnings are shared, and why; of ``auto: on`` the reason depends on the packs."""
    if recipe.train.share_prefix != "auto":
        return recipe.train.share_prefix, ASKED
    if draws_in_training(recipe.technique) or recipe.train.neftune_alpha is not None:
        return False, "auto: off, since with dropout or noise sharing would change the result"
    if recipe.train.layout == "padded":
        return False, "auto: off, since rows go through one at a time"
    if model.kind != "causal":
        return False, "auto: off, since tokens of this model see what follows them"
    return True, None


def _how_shared(data: DataFacts, pack_tokens: int) -> str:
    prefix = data.shared_prefix_tokens
    if is_long(prefix, data) and rows_a_beginning(pack_tokens, data) < 2:
        return (
            f"auto: wherever rows fit, but packs of {pack_tokens:,} tokens have no room for two rows of average length "
            f"behind the {prefix:,} tokens that all begin with (train.tokens_per_micro_batch)"
        )
    return f"auto: on where rows of a step begin alike; {prefix} tokens are common to all rows"


def _epochs(recipe: Recipe, data: DataFacts, budget: Budget, cost: Cost, reasons: Reasons) -> float:
    key = "train.epochs"
    if recipe.train.epochs != "auto":
        epochs, reason = float(recipe.train.epochs), ASKED
        if budget.seconds:
            reason += ", at most, within the budget"
    else:
        epochs, reason = USUAL_EPOCHS, f"auto: the usual {USUAL_EPOCHS:g}"
        seconds = USUAL_EPOCHS * data.rows * cost.train_seconds_per_row
        if budget.seconds:
            reason = f"auto: at most {USUAL_EPOCHS:g}, as many as the budget allows"
        elif budget.tokens is None and seconds > MOST_TRAINING_SECONDS:
            epochs = _two_digits(USUAL_EPOCHS * MOST_TRAINING_SECONDS / seconds)
            reason = (
                f"auto: so that training takes about {MOST_TRAINING_SECONDS / 60:.0f} min here, "
                f"at an estimated {_two_digits(1 / cost.train_seconds_per_row):g} rows/s; {USUAL_EPOCHS:g} would take "
                f"{seconds / 60:.0f} min"
            )
    if budget.tokens is not None:
        allowed = budget.tokens / max(1, data.tokens)
        if recipe.train.epochs == "auto" or allowed < epochs:
            epochs, reason = allowed, f"train.budget is {recipe.train.budget}, an epoch has {data.tokens:,} tokens"
    return float(reasons.give(key, epochs, reason))


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def _tokens_per_step(recipe: Recipe, data: DataFacts, rows: float, *, pack_tokens: int | None, reasons: Reasons) -> int:
    """Tokens of a step, so that ``rows`` (all that are seen, counted as often as they are) make enough steps."""
    key = "train.tokens_per_step"
    if recipe.train.tokens_per_step != "auto":
        return int(reasons.give(key, recipe.train.tokens_per_step, ASKED))
    if recipe.train.rows_per_step != "auto":
        asked = recipe.train.rows_per_step
        tokens = max(1, round(asked * data.mean_row_tokens))
        return int(
            reasons.give(key, tokens, f"train.rows_per_step is {asked}, of {data.mean_row_tokens:.0f} tokens each")
        )
    prefix, because = data.shared_prefix_tokens, ""
    if pack_tokens is not None and data.group_shared_tokens:
        because = f", and up to {data.group_prefix_tokens:,} tokens that rows of a group share should serve several"
    elif pack_tokens is not None and rows_a_beginning(pack_tokens, data) >= 2 and prefix >= SHORTEST_SHARED_PREFIX:
        because = f", and {prefix} shared tokens should serve many rows"
    rows_per_step = max(1, round(rows_a_step(rows, data, pack_tokens)))
    tokens = max(1, round(rows_per_step * data.mean_row_tokens))
    reason = (
        f"auto: about {rows_per_step} rows of {data.mean_row_tokens:.0f} tokens a step, which makes about "
        f"{max(1, round(rows / rows_per_step)):,} steps{because}"
    )
    return int(reasons.give(key, tokens, reason))


def _learning_rate(recipe: Recipe, data: DataFacts, model: ModelFacts, reasons: Reasons) -> float:
    key = "train.learning_rate"
    if recipe.train.learning_rate != "auto":
        return float(reasons.give(key, recipe.train.learning_rate, ASKED))
    billions = model.parameters / 1e9
    size = "under 1 billion" if billions < 1 else "1 to 4 billion" if billions < 4 else "over 4 billion"
    rates = {"under 1 billion": 1e-3, "1 to 4 billion": 5e-4, "over 4 billion": 2e-4}
    rate = rates[size] if recipe.technique.name not in OWN_WEIGHTS else rates[size] / 20
    rate *= OPTIMIZER_RATES.get(recipe.train.optimizer, 1.0)
    # Methods that train few numbers, each of which many products share, take larger steps.
    rate *= METHOD_RATES.get(recipe.technique.name, 1.0)
    reason = f"auto: usual for {recipe.technique.name} on a model of {size} parameters"
    objective = _fitting(recipe, data, model).name
    if objective in PREFERENCE_SLOWER:
        slower = PREFERENCE_SLOWER[objective]
        rate /= slower
        reason += f", a {slower:g}th of it since {objective} pushes answers down too"
    if recipe.train.learning_rate_multiplier != 1:
        rate *= recipe.train.learning_rate_multiplier
        reason += f", times {recipe.train.learning_rate_multiplier:g} as asked"
    return float(reasons.give(key, rate, reason))


def _schedule(recipe: Recipe, reasons: Reasons) -> Any:
    train = recipe.train
    if train.optimizer == "schedule_free_adamw" and "schedule" not in train.model_fields_set:
        return reasons.give("train.schedule", "constant", "the optimizer averages weights in place of a falling rate")
    return reasons.give("train.schedule", train.schedule, _source(train, "schedule"))


def longest_row_allowed(recipe: Recipe, *, task: str, context_length: int | None) -> int | None:
    """Most tokens of a row; None where neither recipe nor model name a limit."""
    if recipe.train.max_length != "auto":
        return recipe.train.max_length
    if _is_learned_in_pieces(recipe, task):
        return min(PIECE_TOKENS, context_length or PIECE_TOKENS)
    return context_length


def _is_learned_in_pieces(recipe: Recipe, task: str) -> bool:
    """Plain texts lose nothing when long ones are laid out as several rows; rows with a question in front would."""
    return task == "text" and recipe.data.on_long_rows == "refuse"


def _max_length(recipe: Recipe, data: DataFacts, model: ModelFacts, reasons: Reasons) -> int:
    key = "train.max_length"
    if recipe.train.max_length != "auto":
        return int(reasons.give(key, recipe.train.max_length, ASKED))
    allowed = longest_row_allowed(recipe, task=data.task, context_length=model.context_length)
    if allowed is None:
        return int(reasons.give(key, max(2, data.longest_row), "auto: the longest row; the model names no limit"))
    if _is_learned_in_pieces(recipe, data.task):
        reason = "auto: long texts are learned in pieces, since attention over whole ones takes most of the time"
        return int(reasons.give(key, allowed, reason))
    reason = f"auto: the model's context; the longest row has {data.longest_row} tokens"
    return int(reasons.give(key, model.context_length, reason))


def _metrics(recipe: Recipe, data: DataFacts, reasons: Reasons) -> tuple[str, ...]:
    if recipe.evaluate.metrics != "auto":
        return tuple(reasons.give("evaluate.metrics", recipe.evaluate.metrics, ASKED))
    reason = "auto: of the task and the form of its answers" if data.default_metrics else "auto: plain text has none"
    return tuple(reasons.give("evaluate.metrics", data.default_metrics, reason))


def _probe(recipe: Recipe, data: DataFacts, model: ModelFacts, reasons: Reasons) -> bool:
    key = "evaluate.probe"
    if recipe.evaluate.probe != "auto":
        return bool(reasons.give(key, recipe.evaluate.probe, ASKED))
    if data.task == "text" and model.kind == "causal":
        return bool(reasons.give(key, True, "auto: a model that learns a domain may forget others"))
    return bool(reasons.give(key, False, "auto: for task text"))


def _evaluation(recipe: Recipe, data: DataFacts, budget: Budget, cost: Cost, reasons: Reasons) -> tuple[int, int]:
    """Rows to measure on, and the most tokens of an answer."""
    new_tokens = _new_tokens(recipe, data, budget, cost, reasons)
    key = "evaluate.rows"
    if recipe.evaluate.rows != "auto":
        rows = min(recipe.evaluate.rows, data.validation_rows)
        return int(reasons.give(key, rows, f"{ASKED}, as far as there are rows")), new_tokens
    seconds = MOST_EVALUATION_SECONDS
    if budget.seconds:
        seconds = min(seconds, budget.seconds * EVALUATION_SHARE)
    systems = 3 if new_tokens else 2
    affordable = int(seconds / (systems * cost.evaluation_seconds_per_row(new_tokens)))
    rows = min(data.validation_rows, MOST_EVALUATION_ROWS, max(FEWEST_EVALUATION_ROWS, affordable))
    if rows == data.validation_rows:
        reason = "auto: all held-out rows"
    elif rows == MOST_EVALUATION_ROWS:
        reason = f"auto: enough for an honest interval; {data.validation_rows:,} are held out"
    else:
        reason = f"auto: what about {seconds / 60:.2g} min allow here; {data.validation_rows:,} are held out"
    return int(reasons.give(key, rows, reason)), new_tokens


def _new_tokens(recipe: Recipe, data: DataFacts, budget: Budget, cost: Cost, reasons: Reasons) -> int:
    """Room for answers: what the longest needs, or as much as the fewest rows may take of a budget of time."""
    key = "evaluate.max_new_tokens"
    if recipe.evaluate.max_new_tokens != "auto":
        return int(reasons.give(key, recipe.evaluate.max_new_tokens, ASKED))
    longest = data.answer_tokens
    if not longest:
        return int(reasons.give(key, 0, "auto: nothing is answered"))
    fewest = recipe.evaluate.rows if recipe.evaluate.rows != "auto" else FEWEST_EVALUATION_ROWS
    fewest = max(1, min(fewest, data.validation_rows))
    room = longest
    while (
        budget.seconds
        and room > FEWEST_NEW_TOKENS
        and 3 * fewest * cost.evaluation_seconds_per_row(room, _ROOM_OF_LONG)
        > _SPARE * EVALUATION_SHARE * budget.seconds
    ):
        room = max(FEWEST_NEW_TOKENS, room * 7 // 8)
    if room < longest:
        reason = f"auto: the longest answer needs {longest}, for which this budget has no time; longer ones are cut"
        return int(reasons.give(key, room, reason))
    return int(reasons.give(key, longest, "auto: room for the longest answer of the data"))


def _few_shot(recipe: Recipe, data: DataFacts, model: ModelFacts, reasons: Reasons) -> int:
    key = "evaluate.few_shot"
    if recipe.evaluate.few_shot != "auto":
        count = min(recipe.evaluate.few_shot, data.rows)
        return int(reasons.give(key, count, f"{ASKED}, as far as there are rows"))
    if not data.answer_tokens:
        return int(reasons.give(key, 0, "auto: nothing is answered"))
    # Half of the context at most: the question, the instruction and the answer need room too.
    room = MOST_FEW_SHOT_TOKENS
    if model.context_length is not None:
        room = min(room, model.context_length // 2 - data.longest_row)
    count = max(0, min(MOST_FEW_SHOT, data.rows, int(room / data.own_row_tokens)))
    return int(reasons.give(key, count, f"auto: examples that fit into {max(0, room)} tokens of the prompt"))


def _checkpoint_every(recipe: Recipe, cost: Cost, tokens_per_step: int, steps: int, reasons: Reasons) -> int | None:
    key = "train.checkpoint_every_steps"
    if recipe.train.checkpoint_every_steps != "auto":
        return int(reasons.give(key, recipe.train.checkpoint_every_steps, ASKED))
    seconds = CHECKPOINT_SECONDS if recipe.technique.name not in OWN_WEIGHTS else 4 * CHECKPOINT_SECONDS
    every = max(1, int(seconds / (cost.train_seconds_per_row * tokens_per_step / cost.row_tokens)))
    every = min(every, max(1, math.ceil(steps / 2)))
    return int(reasons.give(key, every, f"auto: about every {seconds / 60:.0f} min here, and once on the way"))


def _validate_every(recipe: Recipe, steps: int, reasons: Reasons) -> int:
    key = "train.validate_every_steps"
    if recipe.train.validate_every_steps != "auto":
        return int(reasons.give(key, recipe.train.validate_every_steps, ASKED))
    return int(reasons.give(key, max(1, math.ceil(steps / VALIDATIONS)), f"auto: about {VALIDATIONS} times in the run"))
