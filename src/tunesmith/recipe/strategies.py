"""Strategies of several devices: what each of them cuts, and what it cannot do for that."""

from __future__ import annotations

from tunesmith.recipe.facts import DataFacts, ModelFacts
from tunesmith.recipe.fitting import objective_of
from tunesmith.recipe.objectives import HEADS
from tunesmith.recipe.refusal import Facts, Refusal
from tunesmith.recipe.schema import Recipe
from tunesmith.recipe.techniques import PLAIN_BEGINNINGS, Qlora

# Of several devices, what sends least first; each holds less than those before it.
BY_COST = ("ddp", "zero1", "zero2", "fsdp", "zero3")
# Each cuts what those before it cut as well.
CUT_MOMENTS = ("zero1", "zero2", "zero3", "fsdp")
CUT_WEIGHTS = ("zero3", "fsdp")
DEEPSPEED = ("zero1", "zero2", "zero3")
# Other techniques keep state or call weights in ways that parts of weights do not allow.
CUT_TECHNIQUES = ("lora", "dora", "full")


def _can_cut_technique(recipe: Recipe) -> bool:
    """Bytes of nf4 can be cut as numbers; int8 keeps scales in the weight that a part of it would lose."""
    technique = recipe.technique
    return technique.name in CUT_TECHNIQUES or (isinstance(technique, Qlora) and technique.quantization == "nf4")


def _ranks(recipe: Recipe) -> int:
    return recipe.train.devices * recipe.train.nodes


def against(strategy: str, recipe: Recipe, facts: Facts) -> str | None:
    """Why a recipe cannot be shared out so: the first refusal's reason; None where nothing stands against it."""
    chosen = recipe.model_copy(update={"strategy": strategy})
    return next((one.reason for one in OF_STRATEGIES if one.applies(chosen, facts)), None)


def _can_cut_model(recipe: Recipe, data: DataFacts, model: ModelFacts) -> bool:
    objective = objective_of(recipe, task=data.task, shape=data.shape, model_kind=model.kind).name
    beginning = getattr(recipe.technique, "initialization", "default")
    return model.kind == "causal" and objective not in HEADS and beginning in PLAIN_BEGINNINGS


def _is_on_host(recipe: Recipe, facts: Facts) -> bool:
    """Whether what is cut, or may be, lies in the host's memory anyway."""
    return recipe.strategy in (*CUT_MOMENTS, "auto") and facts.host.device == "cpu"


def _holds_whole(recipe: Recipe, facts: Facts) -> bool:
    """Whether nothing is cut, or, where the strategy is open, nothing can be."""
    if recipe.strategy != "auto":
        return recipe.strategy not in CUT_MOMENTS
    return all(against(name, recipe, facts) for name in CUT_MOMENTS)


OF_STRATEGIES: tuple[Refusal, ...] = (
    Refusal(
        "recipe.single_devices",
        "strategy",
        "single is one device, and there should be several",
        "set strategy=auto, or train.devices=1 and train.nodes=1",
        lambda recipe, _: recipe.strategy == "single" and _ranks(recipe) > 1,
    ),
    Refusal(
        "recipe.strategy_alone",
        "train.devices",
        "this strategy shares the work between devices, and there is one",
        "say how many with train.devices (--devices) and train.nodes (--nodes), or set strategy=auto",
        lambda recipe, _: recipe.strategy not in ("auto", "single") and _ranks(recipe) == 1,
    ),
    Refusal(
        "recipe.cut_technique",
        "strategy",
        "this strategy cuts every weight into parts, which this technique was not tested with",
        f"set strategy=ddp, or choose one of {', '.join(CUT_TECHNIQUES)}, or qlora in nf4",
        lambda recipe, _: recipe.strategy in CUT_WEIGHTS and not _can_cut_technique(recipe),
    ),
    Refusal(
        "recipe.cut_gradients",
        "strategy",
        "adalora judges weights by their gradients, which this strategy cuts into parts",
        "set strategy=ddp, or technique=lora",
        lambda recipe, _: recipe.strategy in ("zero1", "zero2") and recipe.technique.name == "adalora",
    ),
    Refusal(
        "recipe.cut_optimizer",
        "train.optimizer",
        "the moments of this optimizer cannot be cut into parts",
        "set train.optimizer=adamw, or strategy=ddp",
        lambda recipe, _: recipe.strategy in CUT_MOMENTS and recipe.train.optimizer != "adamw",
    ),
    Refusal(
        "recipe.cut_new_tokens",
        "data.new_tokens",
        "rows of the embeddings that train cannot be cut as the weights are",
        "set strategy=ddp, or leave data.new_tokens out",
        lambda recipe, _: recipe.strategy in CUT_WEIGHTS and bool(recipe.data.new_tokens),
    ),
    Refusal(
        "recipe.cut_model",
        "strategy",
        "weights are cut of causal models that write, not of heads, encoders or encoder-decoders, nor under adapters "
        "that begin as pissa, olora, eva or loftq",
        "set strategy=ddp",
        lambda recipe, facts: recipe.strategy in CUT_WEIGHTS and not _can_cut_model(recipe, facts.data, facts.model),
    ),
    Refusal(
        "recipe.cut_curve",
        "evaluate.learning_curve",
        "its points are trained on one device, which need not hold what this strategy cuts",
        "set strategy=ddp, or leave evaluate.learning_curve out",
        lambda recipe, _: recipe.strategy in CUT_MOMENTS and recipe.evaluate.learning_curve,
    ),
    Refusal(
        "recipe.address_alone",
        "train.address",
        "there is no other machine to reach this one",
        "set train.nodes, or leave train.address out",
        lambda recipe, _: recipe.train.address != "auto" and recipe.train.nodes == 1,
    ),
    Refusal(
        "recipe.zero_skip",
        "train.on_non_finite",
        "this strategy cannot forget the gradients of a step",
        "set train.on_non_finite=stop, or strategy=fsdp",
        lambda recipe, _: recipe.strategy in DEEPSPEED and recipe.train.on_non_finite == "skip",
    ),
    Refusal(
        "recipe.offload_strategy",
        "train.offload",
        "what a device alone holds, or holds whole, is not moved to the host's memory",
        f"set strategy to one of {', '.join(CUT_MOMENTS)} with several train.devices, or train.offload=false",
        lambda recipe, facts: recipe.train.offload and not _is_on_host(recipe, facts) and _holds_whole(recipe, facts),
    ),
    Refusal(
        "recipe.offload_host",
        "train.offload",
        "there is no GPU, so all is in the host's memory",
        "leave train.offload out",
        lambda recipe, facts: recipe.train.offload and _is_on_host(recipe, facts),
    ),
)
