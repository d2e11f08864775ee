"""Which layers of a model an adapter may be put on, and which of them a recipe means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ModelError, Problem

Targets = str | tuple[str, ...] | list[str]


def adaptable_layers(model: nn.Module) -> list[str]:
    """Full names of all linear layers inside the decoder's layers, in the model's order.

    Decoder layers are what lies in a list of modules; so the output head, embeddings and pooling are not among them.
    """
    stacks = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and any(name.startswith(stack + ".") for stack in stacks)
    ]


def target_names(model: nn.Module, targets: Targets) -> list[str]:
    """The names to give to PEFT for ``all-linear``, ``attention``, or a list of layer names.

    A name stands for every layer whose own name ends with it, as PEFT reads it: ``q_proj``, ``self_attn.q_proj`` or
    ``model.layers.0.self_attn.q_proj``.

    Raises:
        ModelError: A name matches no adaptable layer of the model, or is missing in some of the decoder's layers
            without saying which one it means; the message lists the names that exist.
    """
    layers = adaptable_layers(model)
    if not layers:
        raise ModelError("the model has no linear layers to adapt", code="model.no_targets", value=type(model).__name__)
    if targets == "all-linear":
        return short_names(model, layers)
    if targets == "attention":
        return _attention_names(model, layers)
    names = [targets] if isinstance(targets, str) else list(dict.fromkeys(targets))
    existing = ", ".join(dict.fromkeys(layer.rpartition(".")[2] for layer in layers))
    hint = f"layers of this model: {existing}"
    problems = _unknown(layers, names, "technique.targets", hint)
    for name in names:
        found, count = _spread(model, layers, name)
        if 0 < found < count:
            what = f"only {found} of the model's {count} layers have this name"
            problems.append(Problem("model.target_partial", what, place="technique.targets", value=name, hint=hint))
    if problems or not names:
        raise ModelError(
            "the technique names layers that the model does not have everywhere"
            if names
            else "no target layers are named",
            code="model.target",
            place="technique.targets",
            hint=None if names else f"layers of this model: {existing}",
            problems=problems,
        )
    return names


def targeted_layers(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Full names of the adaptable layers that some names stand for."""
    return [layer for layer in adaptable_layers(model) if any(_matches(layer, name) for name in names)]


def require_patterns(layers: Sequence[str], patterns: Iterable[str], place: str) -> None:
    """See that each name of a map from layers to values stands for one of ``layers`` at least.

    Raises:
        ModelError: With the names that exist.
    """
    existing = ", ".join(dict.fromkeys(layer.rpartition(".")[2] for layer in layers))
    problems = _unknown(layers, patterns, place, f"layers with an adapter: {existing}")
    if problems:
        raise ModelError(
            "a pattern names layers that get no adapter", code="model.target", place=place, problems=problems
        )


def _unknown(layers: Sequence[str], names: Iterable[str], place: str, hint: str) -> list[Problem]:
    return [
        Problem("model.target", "no layer of the model has this name", place=place, value=name, hint=hint)
        for name in names
        if not any(_matches(layer, name) for layer in layers)
    ]


def _spread(model: nn.Module, layers: Sequence[str], name: str) -> tuple[int, int]:
    """In how many layers of the stacks that a name occurs in at all it does, and how many these stacks have.

    A name with a number in it means one layer; it is at home everywhere that it says.
    """
    if any(part.isdigit() for part in name.split(".")):
        return 1, 1
    found = count = 0
    for stack, modules in outermost_stacks(model).items():
        holders = {
            layer[len(stack) + 1 :].partition(".")[0]
            for layer in layers
            if layer.startswith(stack + ".") and _matches(layer, name)
        }
        if holders:
            found, count = found + len(holders), count + len(modules)
    return found, count


def outermost_stacks(model: nn.Module) -> dict[str, nn.ModuleList]:
    """The lists of layers by name: one in a decoder or an encoder, two where there are both."""
    stacks: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(outer + ".") for outer in stacks):
            stacks[name] = module
    return stacks


def _attention_names(model: nn.Module, layers: list[str]) -> list[str]:
    chosen = [layer for layer in layers if "attn" in layer or "attention" in layer]
    if not chosen:
        raise ModelError(
            "no layers of the model's attention were recognised",
            code="model.target",
            place="technique.targets",
            value="attention",
            hint=f"name them; layers of this model: {', '.join(dict.fromkeys(layers))}",
        )
    return short_names(model, chosen)


def short_names(model: nn.Module, chosen: list[str]) -> list[str]:
    """Last parts of the names where they mean exactly the chosen layers, full names where they would catch more."""
    wanted = set(chosen)
    everything = [name for name, _ in model.named_modules()]
    names: dict[str, None] = {}
    for layer in chosen:
        short = layer.rpartition(".")[2]
        exact = all(name in wanted for name in everything if _matches(name, short))
        names[short if exact else layer] = None
    return list(names)


def _matches(layer: str, name: str) -> bool:
    return layer == name or layer.endswith("." + name)
