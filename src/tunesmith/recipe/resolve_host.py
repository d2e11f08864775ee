"""Values that the machine decides, none of which changes the result: strategy, precision, packs, checkpointing."""

from __future__ import annotations

import math
from typing import Any

from tunesmith.recipe.facts import DataFacts, HostFacts, ModelFacts
from tunesmith.recipe.packing import is_long
from tunesmith.recipe.reasons import ASKED, Reasons
from tunesmith.recipe.refusal import Facts
from tunesmith.recipe.schema import Recipe
from tunesmith.recipe.strategies import BY_COST, CUT_WEIGHTS, against
from tunesmith.recipe.techniques import OWN_WEIGHTS, Quantized

# Scores of some labels and what is made of them: two products of 2**24 numbers in float32.
SCORES_BYTES = 2 * 2**24 * 4
# A device holds the whole model where it takes no more of the memory than this; activations need the rest.
WHOLE_MODEL_SHARE = 0.5
# A weight in fewer bits with its scale, and some of embeddings, which stay whole.
QUANTIZED_BYTES = {"int8": 1.2, "nf4": 0.7}
MICRO_BATCH_TOKENS = 1024
SHARING_MICRO_BATCH_TOKENS = 2048
# A transformer layer keeps about 34 numbers of the hidden size a token for its backward pass (Korthikanti 2022), and
# one of them, its input, where it computes the others again.
_NUMBERS_OF_A_LAYER = 34
_USABLE = 0.8


def choose_strategy(recipe: Recipe, data: DataFacts, model: ModelFacts, host: HostFacts, reasons: Reasons) -> Any:
    """One device alone; of several each holds the whole model where there is memory for as many.

    A rule of thumb: where the planner knows the model, it chooses (:mod:`tunesmith.planner.strategy`).
    """
    devices, ranks = recipe.train.devices, recipe.train.devices * recipe.train.nodes
    if recipe.strategy != "auto":
        return reasons.give("strategy", recipe.strategy, ASKED)
    if ranks == 1:
        return reasons.give("strategy", "single", "auto: one device")
    facts = Facts(data, model, host)
    needed, there = _held_bytes(recipe, model, host), host.memory_of_each(devices)
    reason = (
        f"auto: weights, gradients and moments take about {needed / 2**30:.1f} GiB whole, and {there / 2**30:.1f} GiB "
        f"are there for each of {devices} devices"
    )
    wanted = "ddp" if needed <= WHOLE_MODEL_SHARE * there and not recipe.train.offload else "fsdp"
    obstacle = against(wanted, recipe, facts)
    if obstacle is None:
        return reasons.give("strategy", wanted, reason)
    name = next((name for name in BY_COST if against(name, recipe, facts) is None), "ddp")
    return reasons.give("strategy", name, f"{reason}; not {wanted}: {obstacle}")


def _held_bytes(recipe: Recipe, model: ModelFacts, host: HostFacts) -> int:
    """About what weights, gradients and moments take, whole; of what trains beside frozen weights little is known."""
    technique = recipe.technique
    if technique.name == "full":
        return 16 * model.parameters
    if isinstance(technique, Quantized):
        return int(QUANTIZED_BYTES[technique.quantization] * model.parameters)
    half = technique.name not in OWN_WEIGHTS and _precision(recipe, host) == "bfloat16"
    return (2 if half else 4) * model.parameters


def _precision(recipe: Recipe, host: HostFacts) -> str:
    return host.fast_dtype if recipe.train.precision == "auto" else recipe.train.precision


def choose_precision(recipe: Recipe, host: HostFacts, reasons: Reasons) -> Any:
    """The type that this machine multiplies fastest in."""
    if recipe.train.precision != "auto":
        return reasons.give("train.precision", recipe.train.precision, ASKED)
    reason = f"auto: {host.fast_dtype} products are the fastest here, by a short measurement"
    return reasons.give("train.precision", host.fast_dtype, reason)


def choose_micro_batch(
    recipe: Recipe,
    data: DataFacts,
    model: ModelFacts,
    host: HostFacts,
    *,
    strategy: str,
    share: bool,
    reasons: Reasons,
) -> int:
    """Tokens of a pack: room for rows, behind what they begin with where that is long, as far as memory goes."""
    key = "train.tokens_per_micro_batch"
    if recipe.train.tokens_per_micro_batch != "auto":
        return int(reasons.give(key, recipe.train.tokens_per_micro_batch, ASKED))
    beginning = max(data.shared_prefix_tokens, data.group_prefix_tokens) if share else 0
    if not is_long(beginning, data):
        return int(reasons.give(key, MICRO_BATCH_TOKENS, "auto: packs of this size measured fastest"))
    wanted = beginning + MICRO_BATCH_TOKENS
    if wanted <= SHARING_MICRO_BATCH_TOKENS:
        reason = "auto: packs of this size measured fastest, with a shared beginning"
        return int(reasons.give(key, SHARING_MICRO_BATCH_TOKENS, reason))
    # A row alone needs as much as it has tokens, whatever the size of packs.
    most = max(SHARING_MICRO_BATCH_TOKENS, _tokens_that_fit(recipe, model, host, strategy))
    if wanted > most:
        reason = f"auto: what memory allows; {wanted:,} would leave room behind {beginning:,} tokens that rows share"
        return int(reasons.give(key, most, reason))
    reason = f"auto: the {beginning:,} tokens that rows begin with, and room for {MICRO_BATCH_TOKENS:,} of their own"
    return int(reasons.give(key, wanted, reason))


def _tokens_that_fit(recipe: Recipe, model: ModelFacts, host: HostFacts, strategy: str) -> int:
    """Tokens of the largest pack that memory has room for, with as many activations computed again as the recipe
    allows."""
    wish = recipe.train.activation_checkpointing
    again = model.layers if wish == "auto" or wish is True else int(wish)
    kept_layers = model.layers - again + (1 if again else 0)
    a_token = _layer_bytes(model) * (kept_layers + again / _NUMBERS_OF_A_LAYER)
    whole = _makes_all_scores(recipe, strategy)
    a_token += _scores_bytes(model) if whole else 0
    there = _USABLE * host.memory_of_each(recipe.train.devices)
    left = there - _device_bytes(recipe, model, host, strategy) - (0 if whole else SCORES_BYTES)
    return max(0, int(left / max(1.0, a_token)))


def choose_checkpointing(
    recipe: Recipe, model: ModelFacts, host: HostFacts, *, strategy: str, tokens: int, reasons: Reasons
) -> bool | int:
    """How many layers have to compute activations again so that the largest pack, of ``tokens`` tokens, fits.

    True for all of them, False for none.
    """
    key, wanted = "train.activation_checkpointing", recipe.train.activation_checkpointing
    if wanted != "auto":
        reasons.give(key, wanted, ASKED)
        return wanted
    layer_bytes = tokens * _layer_bytes(model)
    scores_bytes = tokens * _scores_bytes(model) if _makes_all_scores(recipe, strategy) else SCORES_BYTES
    needed = _device_bytes(recipe, model, host, strategy) + model.layers * layer_bytes + scores_bytes
    memory = host.memory_of_each(recipe.train.devices)
    there = _USABLE * memory
    reason = f"auto: about {needed / 2**30:.1f} GiB of {memory / 2**30:.1f} GiB are needed without"
    if needed <= there:
        return bool(reasons.give(key, False, reason))
    # One layer at a time has all of its activations while it computes them again.
    layers = math.ceil((needed - there + layer_bytes) / (layer_bytes * (1 - 1 / _NUMBERS_OF_A_LAYER)))
    if layers >= model.layers:
        return bool(reasons.give(key, True, reason))
    return int(reasons.give(key, layers, f"{reason}; {layers} of {model.layers} layers are enough"))


def _layer_bytes(model: ModelFacts) -> int:
    """What a layer keeps of a token for its backward pass."""
    return _NUMBERS_OF_A_LAYER * model.hidden_size * 4


def _makes_all_scores(recipe: Recipe, strategy: str) -> bool:
    """A frozen, whole output matrix makes scores of some labels at a time; else those of all are there."""
    return recipe.technique.name == "full" or strategy in CUT_WEIGHTS


def _scores_bytes(model: ModelFacts) -> int:
    """The scores of a token, and two copies."""
    return 3 * model.vocabulary_size * 4


def _device_bytes(recipe: Recipe, model: ModelFacts, host: HostFacts, strategy: str) -> int:
    """About what weights, gradients and moments take of one device."""
    held_bytes = _held_bytes(recipe, model, host)
    return held_bytes // (recipe.train.devices * recipe.train.nodes) if strategy in CUT_WEIGHTS else held_bytes
