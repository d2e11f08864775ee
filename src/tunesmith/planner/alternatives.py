"""What else one could do with a recipe: the same in other ways side by side, and what would make it fit.

    alternatives(shape, data, hardware, change)       # lora, qlora, dora, full, checkpointed, cut in other ways
    cheapest_fits(shape, data, hardware, change)      # at most three, as settings: technique=qlora

Of epochs that are left open, and of a budget of time, a slower way makes less training; so ways are compared by the
time of equal work: as many tokens as the recipe as it is trains. All of it is prediction; nothing is tried. ``change``
gives the values that a recipe has with some settings, see :mod:`tunesmith.planner.changes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from tunesmith.planner.changes import Change, Settings
from tunesmith.planner.hardware import Hardware
from tunesmith.planner.memory import predict_memory
from tunesmith.planner.plan import FEWEST_TOKENS, fits, make_plan
from tunesmith.planner.shape import ModelShape
from tunesmith.planner.time import predict_time, price_of, seconds_of_work
from tunesmith.planner.trained import Counted
from tunesmith.recipe.facts import DataFacts
from tunesmith.recipe.resolved import Resolved
from tunesmith.recipe.strategies import BY_COST, CUT_MOMENTS

# Two amounts of training within this are the same: steps are whole.
_SAME = 0.01
_PACK = "train.tokens_per_micro_batch="


@dataclass(frozen=True)
class Alternative:
    """Another way for the same recipe: the settings that differ, and what they come to.

    ``parts`` are bytes of a device by name; ``host_bytes``, ``offloaded_bytes``, ``checkpoint_bytes`` and the largest
    pack and longest row, in tokens, are as in a plan (:class:`tunesmith.planner.plan.Plan`). ``price`` is None without
    prices. ``epochs`` is how often rows are seen, ``same_work`` whether that is as much training as that of the recipe
    as it is; ``equal_seconds`` and ``equal_price`` are what that much takes, by which ways are ordered.
    """

    settings: Settings
    technique: str
    strategy: str
    activation_checkpointing: bool | int
    peak_bytes: int
    parts: Mapping[str, int]
    host_bytes: int
    offloaded_bytes: int
    checkpoint_bytes: int
    trained_parameters: int
    step_seconds: float
    total_seconds: float
    epochs: float
    same_work: bool
    equal_seconds: float
    price: float | None
    equal_price: float | None
    currency: str | None
    largest_micro_batch: int | None
    longest_context: int | None
    fits: bool

    @property
    def time_words(self) -> str:
        """Minutes of its run; where that is not as much training as that of the recipe, how much it is."""
        told = f"{self.total_seconds / 60:.0f} min"
        if self.same_work:
            return told
        return f"{told} for {self.epochs:.2g} epochs, {self.equal_seconds / 60:.0f} min for equal work"


def way_of(
    shape: ModelShape,
    data: DataFacts,
    hardware: Hardware,
    change: Change,
    settings: Settings,
    *,
    new_tokens: int = 0,
    counted: Counted | None = None,
) -> Alternative | None:
    """What a recipe with some settings comes to; None where they do not go together.

    ``counted`` is what was counted in the built model, for a technique without a formula; here and below.
    """
    return _Scene(shape, data, hardware, change, new_tokens, counted).tried(settings)


def trained_tokens_of(
    shape: ModelShape,
    data: DataFacts,
    hardware: Hardware,
    resolved: Resolved,
    *,
    new_tokens: int = 0,
    counted: Counted | None = None,
) -> int:
    """How many tokens of rows a recipe trains: the work by which other ways are held against it."""
    return predict_time(shape, resolved, data, hardware, new_tokens=new_tokens, counted=counted).tokens


def alternatives(
    shape: ModelShape,
    data: DataFacts,
    hardware: Hardware,
    change: Change,
    *,
    new_tokens: int = 0,
    counted: Counted | None = None,
) -> list[Alternative]:
    """The same recipe with other techniques, with and without activation checkpointing, and cut in other ways.

    What the recipe cannot be combined with is left out. The first row is the recipe as it is.
    """
    scene = _Scene(shape, data, hardware, change, new_tokens, counted)
    settings: list[Settings] = [(), *other_ways(scene.now, hardware)]
    return [found for one in settings if (found := scene.tried(one)) is not None]


@dataclass(frozen=True)
class _Scene:
    """The recipe, and all that it is about."""

    shape: ModelShape
    data: DataFacts
    hardware: Hardware
    change: Change
    new_tokens: int
    counted: Counted | None
    wanted_tokens: int | None = None

    @cached_property
    def tokens(self) -> int:
        """The work by which ways are compared: that of the recipe as it is, unless told otherwise."""
        if self.wanted_tokens is not None:
            return self.wanted_tokens
        numbers: dict[str, Any] = {"new_tokens": self.new_tokens, "counted": self.counted}
        return trained_tokens_of(self.shape, self.data, self.hardware, self.now, **numbers)

    @property
    def now(self) -> Resolved:
        """The recipe as it is."""
        resolved = self.change(())
        assert resolved is not None, "nothing was changed"
        return resolved

    def tried(self, settings: Settings) -> Alternative | None:
        """The recipe with some settings; None where they do not go together."""
        changed = self.change(settings)
        return None if changed is None else self.way(settings, changed)

    def holds(self, resolved: Resolved) -> bool:
        """Whether values fit."""
        memory = predict_memory(
            self.shape, resolved, self.data, self.hardware, new_tokens=self.new_tokens, counted=self.counted
        )
        return fits(memory, self.hardware)

    def seconds(self, resolved: Resolved) -> float:
        """How long values take for equal work."""
        numbers: dict[str, Any] = {"new_tokens": self.new_tokens, "counted": self.counted}
        return seconds_of_work(self.shape, resolved, self.data, self.hardware, self.tokens, **numbers)

    def way(self, settings: Settings, resolved: Resolved) -> Alternative:
        """What values come to, with the largest pack and row, which take the most time to find."""
        plan = make_plan(
            self.shape, resolved, self.data, self.hardware, new_tokens=self.new_tokens, counted=self.counted
        )
        memory, time, seconds = plan.memory, plan.time, self.seconds(resolved)
        return Alternative(
            settings=settings,
            technique=plan.technique,
            strategy=plan.strategy,
            activation_checkpointing=resolved.activation_checkpointing,
            peak_bytes=memory.peak,
            parts=memory.parts,
            host_bytes=memory.host,
            offloaded_bytes=memory.offloaded,
            checkpoint_bytes=memory.checkpoints,
            trained_parameters=memory.trained_parameters,
            step_seconds=time.step_seconds,
            total_seconds=time.total_seconds,
            epochs=time.tokens / max(1, self.data.tokens),
            same_work=abs(time.tokens - self.tokens) <= _SAME * self.tokens,
            equal_seconds=seconds,
            price=time.price,
            equal_price=price_of(resolved, self.hardware, seconds),
            currency=time.currency,
            largest_micro_batch=plan.largest_micro_batch,
            longest_context=plan.longest_context,
            fits=plan.fits,
        )


def other_ways(resolved: Resolved, hardware: Hardware) -> Iterator[Settings]:
    """The settings of which each makes another way, whether they go with the rest of the recipe or not."""
    for name in ("lora", "qlora", "dora", "full"):
        if name != resolved.technique.name:
            yield (f"technique={name}",)
    yield ("train.activation_checkpointing=" + ("false" if resolved.activation_checkpointing else "true"),)
    if resolved.devices * resolved.nodes > 1:
        for name in BY_COST:
            if name != resolved.strategy:
                back = resolved.offload and name not in CUT_MOMENTS
                yield (f"strategy={name}", *(["train.offload=false"] if back else []))
        if hardware.device == "cuda" and resolved.strategy in CUT_MOMENTS:
            yield ("train.offload=" + ("false" if resolved.offload else "true"),)


def cheapest_fits(
    shape: ModelShape,
    data: DataFacts,
    hardware: Hardware,
    change: Change,
    *,
    new_tokens: int = 0,
    counted: Counted | None = None,
    most: int = 3,
    techniques: bool = True,
    tokens: int | None = None,
) -> list[Alternative]:
    """Changes that would make a plan fit that does not, cheapest in time first; none where it fits or nothing helps.

    Time is that of equal work. No change holds a setting that it could do without, and of smaller packs the largest
    that fits is taken. ``techniques`` says whether another technique is a change, ``tokens`` what equal work is, if not
    that of the recipe as it is.
    """
    scene = _Scene(shape, data, hardware, change, new_tokens, counted, tokens)
    if scene.holds(scene.now):
        return []
    found: dict[Settings, Resolved] = {}
    for settings in sorted(_combinations(scene.now, hardware, techniques=techniques), key=len):
        if any(set(one) <= set(settings) for one in found):
            continue
        changed = change(settings)
        if changed is not None and scene.holds(changed):
            found[settings] = changed
    best: dict[Settings, Settings] = {}
    for settings in sorted(found, key=lambda one: (scene.seconds(found[one]), len(one))):
        # Packs of several sizes are one kind of change.
        kind = tuple(_PACK if setting.startswith(_PACK) else setting for setting in settings)
        best.setdefault(kind, settings)
    return [scene.way(settings, found[settings]) for settings in list(best.values())[:most]]


def _combinations(resolved: Resolved, hardware: Hardware, *, techniques: bool) -> Iterator[Settings]:
    """All combinations of changes that save memory, as settings."""
    packs = [resolved.tokens_per_micro_batch // share for share in (2, 4, 8)]
    others = [f"technique={name}" for name in ("lora", "qlora") if techniques and name != resolved.technique.name]
    again = ["train.activation_checkpointing=true"] if resolved.activation_checkpointing is not True else []
    smaller = [f"{_PACK}{tokens}" for tokens in packs if tokens >= FEWEST_TOKENS]
    several = resolved.devices * resolved.nodes > 1
    cuts = [f"strategy={name}" for name in BY_COST[1:] if several and name != resolved.strategy]
    other = "false" if resolved.offload else "true"
    offload = [f"train.offload={other}"] if several and hardware.device == "cuda" else []
    for chosen in product(*([None, *one] for one in (others, again, smaller, cuts, offload))):
        yield tuple(setting for setting in chosen if setting is not None)
