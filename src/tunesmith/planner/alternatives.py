"""What else one could do with a recipe: the same in other ways side by side, and what would make it fit.

    alternatives(shape, data, hardware, change)       # lora, qlora, dora, full, checkpointed, cut in other ways
    cheapest_fits(shape, data, hardware, change)      # at most three, as settings: technique=qlora

All of it is prediction; nothing is tried. ``change`` gives the values that a recipe has with some settings, see
:mod:`tunesmith.planner.changes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from tunesmith.planner.changes import Change, Settings
from tunesmith.planner.hardware import Hardware
from tunesmith.planner.memory import predict_memory
from tunesmith.planner.plan import FEWEST_TOKENS, fits
from tunesmith.planner.shape import ModelShape
from tunesmith.planner.time import predict_time
from tunesmith.recipe.facts import DataFacts
from tunesmith.recipe.resolved import Resolved
from tunesmith.recipe.strategies import CUT_MOMENTS

_PACK = "train.tokens_per_micro_batch="


@dataclass(frozen=True)
class Alternative:
    """Another way for the same recipe: the settings that differ, and what they come to."""

    settings: Settings
    peak_bytes: int
    host_bytes: int
    step_seconds: float
    total_seconds: float
    fits: bool


def way_of(
    shape: ModelShape, data: DataFacts, hardware: Hardware, change: Change, settings: Settings, *, new_tokens: int = 0
) -> Alternative | None:
    """What a recipe with some settings comes to; None where they do not go together."""
    return _Scene(shape, data, hardware, change, new_tokens).tried(settings)


def alternatives(
    shape: ModelShape, data: DataFacts, hardware: Hardware, change: Change, *, new_tokens: int = 0
) -> list[Alternative]:
    """The same recipe with other techniques, with and without activation checkpointing, and cut in other ways.

    What the recipe cannot be combined with is left out. The first row is the recipe as it is.
    """
    scene = _Scene(shape, data, hardware, change, new_tokens)
    settings: list[Settings] = [(), *_single_changes(scene.now, hardware)]
    return [found for one in settings if (found := scene.tried(one)) is not None]


@dataclass(frozen=True)
class _Scene:
    """The recipe, and all that it is about."""

    shape: ModelShape
    data: DataFacts
    hardware: Hardware
    change: Change
    new_tokens: int

    @property
    def now(self) -> Resolved:
        """The recipe as it is."""
        resolved = self.change(())
        assert resolved is not None, "nothing was changed"
        return resolved

    def tried(self, settings: Settings) -> Alternative | None:
        """The recipe with some settings; None where they do not go together."""
        changed = self.change(settings)
        if changed is None:
            return None
        memory = predict_memory(self.shape, changed, self.data, self.hardware, new_tokens=self.new_tokens)
        time = predict_time(self.shape, changed, self.data, self.hardware, new_tokens=self.new_tokens)
        return Alternative(
            settings=settings,
            peak_bytes=memory.peak,
            host_bytes=memory.host,
            step_seconds=time.step_seconds,
            total_seconds=time.total_seconds,
            fits=fits(memory, self.hardware),
        )


def _single_changes(resolved: Resolved, hardware: Hardware) -> Iterator[Settings]:
    for name in ("lora", "qlora", "dora", "full"):
        if name != resolved.technique.name:
            yield (f"technique={name}",)
    yield ("train.activation_checkpointing=" + ("false" if resolved.activation_checkpointing else "true"),)
    if resolved.devices * resolved.nodes > 1:
        for name in ("ddp", "zero2", "zero3", "fsdp"):
            if name != resolved.strategy:
                back = resolved.offload and name not in CUT_MOMENTS
                yield (f"strategy={name}", *(["train.offload=false"] if back else []))
        if hardware.device == "cuda" and resolved.strategy in CUT_MOMENTS:
            yield ("train.offload=" + ("false" if resolved.offload else "true"),)


def cheapest_fits(
    shape: ModelShape, data: DataFacts, hardware: Hardware, change: Change, *, new_tokens: int = 0, most: int = 3
) -> list[Alternative]:
    """Changes that would make a plan fit that does not, cheapest in time first; none where it fits or nothing helps.

    No change holds a setting that it could do without, and of smaller packs the largest that fits is taken.
    """
    scene = _Scene(shape, data, hardware, change, new_tokens)
    if fits(predict_memory(shape, scene.now, data, hardware, new_tokens=new_tokens), hardware):
        return []
    found: list[Alternative] = []
    for settings in sorted(_combinations(scene.now, hardware), key=len):
        if any(set(one.settings) <= set(settings) for one in found):
            continue
        tried = scene.tried(settings)
        if tried is not None and tried.fits:
            found.append(tried)
    best: dict[Settings, Alternative] = {}
    for one in sorted(found, key=lambda one: (one.total_seconds, len(one.settings))):
        # Packs of several sizes are one kind of change.
        kind = tuple(_PACK if setting.startswith(_PACK) else setting for setting in one.settings)
        best.setdefault(kind, one)
    return list(best.values())[:most]


def _combinations(resolved: Resolved, hardware: Hardware) -> Iterator[Settings]:
    """All combinations of changes that save memory, as settings."""
    packs = [resolved.tokens_per_micro_batch // share for share in (2, 4, 8)]
    techniques = [f"technique={name}" for name in ("lora", "qlora") if name != resolved.technique.name]
    again = ["train.activation_checkpointing=true"] if resolved.activation_checkpointing is not True else []
    smaller = [f"{_PACK}{tokens}" for tokens in packs if tokens >= FEWEST_TOKENS]
    several = resolved.devices * resolved.nodes > 1
    cuts = [f"strategy={name}" for name in ("zero2", "zero3", "fsdp") if several and name != resolved.strategy]
    offload = ["train.offload=true"] if several and hardware.device == "cuda" and not resolved.offload else []
    for chosen in product(*([None, *one] for one in (techniques, again, smaller, cuts, offload))):
        yield tuple(setting for setting in chosen if setting is not None)
