"""What else one could do with a recipe: the same in other ways side by side, and what would make it fit.

    alternatives(shape, resolved, data, hardware)       # lora, qlora, dora, full, checkpointed, cut in other ways
    cheapest_fits(shape, resolved, data, hardware)      # at most three, as settings: technique=qlora

All of it is prediction; nothing is tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from tunesmith.planner.hardware import Hardware
from tunesmith.planner.memory import predict_memory
from tunesmith.planner.plan import FEWEST_TOKENS, fits
from tunesmith.planner.shape import ModelShape
from tunesmith.planner.time import predict_time
from tunesmith.recipe.facts import DataFacts
from tunesmith.recipe.objectives import HEADS
from tunesmith.recipe.resolved import Resolved
from tunesmith.recipe.strategies import CUT_MOMENTS, CUT_TECHNIQUES, CUT_WEIGHTS
from tunesmith.recipe.techniques import OWN_WEIGHTS, PLAIN_BEGINNINGS, Dora, Full, Lora, LowRank, Qlora, TechniqueSpec

# Settings of a recipe as one writes them: technique=qlora.
Settings = tuple[str, ...]
_PACK = "train.tokens_per_micro_batch="
# What one low-rank technique takes over from another.
_KEPT = (
    "rank",
    "alpha",
    "targets",
    "dropout",
    "rank_stabilized",
    "rank_pattern",
    "alpha_pattern",
    "learning_rate_ratio",
)


@dataclass(frozen=True)
class Alternative:
    """Another way for the same recipe: the settings that differ, and what they come to."""

    settings: Settings
    peak_bytes: int
    host_bytes: int
    step_seconds: float
    total_seconds: float
    fits: bool


def alternatives(
    shape: ModelShape, resolved: Resolved, data: DataFacts, hardware: Hardware, *, new_tokens: int = 0
) -> list[Alternative]:
    """The same recipe with other techniques, with and without activation checkpointing, and cut in other ways.

    What the recipe cannot be combined with is left out. The first row is the recipe as it is.
    """
    scene = _Scene(shape, data, hardware, new_tokens)
    settings: list[Settings] = [(), *_single_changes(resolved)]
    return [found for one in settings if (found := scene.tried(resolved, one)) is not None]


@dataclass(frozen=True)
class _Scene:
    """All but the recipe."""

    shape: ModelShape
    data: DataFacts
    hardware: Hardware
    new_tokens: int

    def tried(self, resolved: Resolved, settings: Settings) -> Alternative | None:
        """The recipe with some settings; None where they do not go together."""
        changed = with_settings(resolved, settings)
        if settings and not is_possible(self.shape, changed, self.hardware):
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


def _single_changes(resolved: Resolved) -> Iterator[Settings]:
    for name in ("lora", "qlora", "dora", "full"):
        if name != resolved.technique.name:
            yield (f"technique={name}",)
    yield ("train.activation_checkpointing=" + ("false" if resolved.activation_checkpointing else "true"),)
    if resolved.devices * resolved.nodes > 1:
        for name in ("ddp", "zero2", "zero3", "fsdp"):
            if name != resolved.strategy:
                yield (f"strategy={name}",)


def with_settings(resolved: Resolved, settings: Settings) -> Resolved:
    """The recipe with settings that an :class:`Alternative` has; a low-rank technique keeps what the last one had."""
    changes: dict[str, Any] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key == "technique":
            changes["technique"] = _technique(resolved.technique, value)
        elif key == "train.activation_checkpointing":
            changes["activation_checkpointing"] = value == "true"
        elif key == "train.tokens_per_micro_batch":
            changes["tokens_per_micro_batch"] = int(value)
        elif key == "train.offload":
            changes["offload"] = value == "true"
        elif key == "strategy":
            changes |= {"strategy": value, "offload": resolved.offload and value in CUT_MOMENTS}
    return replace(resolved, **changes)


def _technique(now: TechniqueSpec, name: str) -> TechniqueSpec:
    """A technique by name; a low-rank one keeps rank and targets of the one before."""
    kinds: dict[str, type[Lora | Dora | Qlora]] = {"lora": Lora, "dora": Dora, "qlora": Qlora}
    if name not in kinds:
        return Full()
    shared = _KEPT if isinstance(now, LowRank) else ()
    return kinds[name](**{key: getattr(now, key) for key in shared})


def is_possible(shape: ModelShape, resolved: Resolved, hardware: Hardware) -> bool:
    """Whether the parts of a recipe go together, as far as the changes made here can break that."""
    technique, objective = resolved.technique, resolved.objective.name
    if technique.name in OWN_WEIGHTS and objective in ("dpo", "kto"):
        return False
    if resolved.offload and (resolved.strategy not in CUT_MOMENTS or hardware.device == "cpu"):
        return False
    if resolved.strategy in CUT_MOMENTS and resolved.optimizer != "adamw":
        return False
    if resolved.strategy in CUT_WEIGHTS:
        plain = getattr(technique, "initialization", "default") in PLAIN_BEGINNINGS
        return technique.name in CUT_TECHNIQUES and plain and shape.kind == "causal" and objective not in HEADS
    return True


def cheapest_fits(
    shape: ModelShape, resolved: Resolved, data: DataFacts, hardware: Hardware, *, new_tokens: int = 0, most: int = 3
) -> list[Alternative]:
    """Changes that would make a plan fit that does not, cheapest in time first; none where it fits or nothing helps.

    No change holds a setting that it could do without, and of smaller packs the largest that fits is taken.
    """
    scene = _Scene(shape, data, hardware, new_tokens)
    if fits(predict_memory(shape, resolved, data, hardware, new_tokens=new_tokens), hardware):
        return []
    found: list[Alternative] = []
    for settings in sorted(_combinations(resolved, hardware), key=len):
        if any(set(one.settings) <= set(settings) for one in found):
            continue
        tried = scene.tried(resolved, settings)
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
