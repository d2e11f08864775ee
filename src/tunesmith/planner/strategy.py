"""What a recipe leaves open and the plan chooses: the strategy, and whether activations are computed again.

    change = choosing(recipe, change, shape, data, hardware)
    change(())                  # the recipe's values, as training will have them

Of the ways to share a training the first that fits is taken, the cheapest first: in the order of
:data:`tunesmith.recipe.strategies.BY_COST`, where what sends least comes first. Where none fits, all are tried again
with activations computed again, if the recipe leaves that open. What is offloaded is the recipe's wish: it is never
turned on here, and where it is on, strategies that cut nothing are out. Where nothing is shared, or the strategy
is given, activations are computed again if that makes values fit that do not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from tunesmith.planner.changes import Change, Settings
from tunesmith.planner.hardware import Hardware
from tunesmith.planner.memory import MemoryPlan, predict_memory
from tunesmith.planner.shape import ModelShape
from tunesmith.planner.trained import Counted
from tunesmith.recipe.facts import DataFacts
from tunesmith.recipe.resolved import Resolved
from tunesmith.recipe.schema import Recipe
from tunesmith.recipe.strategies import BY_COST

_STRATEGY, _AGAIN = "strategy", "train.activation_checkpointing"
_GIB = 2**30


def choosing(
    recipe: Recipe,
    change: Change,
    shape: ModelShape,
    data: DataFacts,
    hardware: Hardware,
    *,
    new_tokens: int = 0,
    counted: Counted | None = None,
    missing: Collection[str] = (),
) -> Change:
    """How a recipe changes, with strategy and activation checkpointing chosen by the plan where they are left open.

    Args:
        recipe: What was asked for.
        change: How it changes, with both by rules of thumb.
        shape: The model.
        data: The training data in tokens.
        hardware: Where it is to run.
        new_tokens: Tokens that the model did not have.
        counted: What was counted in the built model, for techniques without a formula.
        missing: Strategies whose library is known not to be there.
    """

    def weigh(resolved: Resolved) -> MemoryPlan:
        return predict_memory(shape, resolved, data, hardware, counted=counted, new_tokens=new_tokens)

    def fitting(now: Resolved, settings: Settings) -> Resolved:
        """The values, with activations computed again where that makes them fit and nothing else does."""
        memory = weigh(now)
        if now.activation_checkpointing is True or memory.headroom(hardware) >= 0:
            return now
        again = (f"{_AGAIN}=true",)
        found = change((*settings, *again))
        if found is None or weigh(found).headroom(hardware) < 0:
            return now
        return _told(now, found, again, f"auto: by the plan it would not fit otherwise: {_needed(memory, hardware)}")

    def choose(settings: Settings) -> Resolved | None:
        now = change(settings)
        if now is None:
            return None
        again = _is_open(_AGAIN, recipe.train.activation_checkpointing, settings)
        if now.devices * now.nodes == 1 or not _is_open(_STRATEGY, recipe.strategy, settings):
            return fitting(now, settings) if again else now
        tried: list[str] = []
        for more in _ways(again=again):
            found = None if more[0].partition("=")[2] in missing else change((*settings, *more))
            if found is None:
                continue
            memory = weigh(found)
            size = memory.peak if hardware.device_memory_bytes else memory.host
            tried.append(f"{' and '.join(_words(more))} {size / _GIB:.1f}{_beyond_host(memory, hardware)}")
            if memory.headroom(hardware) >= 0:
                return _told(now, found, more, f"auto: the first that fits by the plan: {_sizes(tried, hardware)}")
        reason = f"auto: by the plan nothing fits: {_sizes(tried, hardware)}" if tried else now.reasons[_STRATEGY]
        return replace(now, reasons={**now.reasons, _STRATEGY: reason})

    return choose


def _is_open(key: str, wanted: object, settings: Settings) -> bool:
    return wanted == "auto" and not any(setting.startswith(f"{key}=") for setting in settings)


def _ways(*, again: bool) -> Iterator[Settings]:
    for name in BY_COST:
        yield (f"{_STRATEGY}={name}",)
    for name in BY_COST if again else ():
        yield f"{_STRATEGY}={name}", f"{_AGAIN}=true"


def _words(settings: Settings) -> Iterator[str]:
    for setting in settings:
        key, _, value = setting.partition("=")
        yield value if key == _STRATEGY else "activations again"


def _beyond_host(memory: MemoryPlan, hardware: Hardware) -> str:
    left = memory.host_headroom(hardware)
    if left is None or left >= 0:
        return ""
    return f" (and {memory.offloaded / _GIB:.1f} offloaded, more than the host has)"


def _sizes(tried: list[str], hardware: Hardware) -> str:
    there = hardware.device_memory_bytes or hardware.host_memory_bytes or 0
    which = "a device has" if hardware.device_memory_bytes else "all processes together have"
    return f"{', '.join(tried)} GiB; {which} {there / _GIB:.1f}"


def _needed(memory: MemoryPlan, hardware: Hardware) -> str:
    size = memory.peak if hardware.device_memory_bytes else memory.host
    return f"{_sizes([f'{size / _GIB:.1f}{_beyond_host(memory, hardware)}'], hardware)}, of which most can be used"


def _told(now: Resolved, found: Resolved, settings: Settings, reason: str) -> Resolved:
    """The values with this reason, and the others as they were: nobody asked for what was only tried."""
    kept = {key: why for key, why in now.reasons.items() if found.value(key) == now.value(key)}
    keys = [setting.partition("=")[0] for setting in settings]
    return replace(found, reasons={**found.reasons, **kept, **dict.fromkeys(keys, reason)})
