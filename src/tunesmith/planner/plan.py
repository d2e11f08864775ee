"""A plan: does a recipe fit some hardware, how long does it take, and how much larger could it be.

    plan = make_plan(shape, resolved, data, hardware)
    plan.fits, plan.memory.peak, plan.time.total_seconds, plan.longest_context

What else one could do is in :mod:`tunesmith.planner.alternatives`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from tunesmith.errors import UsageError
from tunesmith.planner.hardware import Hardware
from tunesmith.planner.memory import MemoryPlan, predict_memory
from tunesmith.planner.shape import ModelShape
from tunesmith.planner.time import TimePlan, predict_time
from tunesmith.planner.trained import Counted
from tunesmith.recipe.facts import DataFacts
from tunesmith.recipe.resolved import Resolved

VERSION = 1
# Larger packs and longer contexts are not looked for.
MOST_TOKENS = 2**20
FEWEST_TOKENS = 64


@dataclass(frozen=True)
class Plan:
    """A recipe on some hardware. ``headroom`` are bytes that are left, below 0 where it does not fit.

    ``largest_micro_batch`` and ``longest_context`` are tokens, None where not even the smallest fits. ``notes`` say
    what the numbers leave out.
    """

    model: str
    hardware: str
    technique: str
    strategy: str
    devices: int
    nodes: int
    precision: str
    tokens_per_micro_batch: int
    parameters: int
    memory: MemoryPlan
    time: TimePlan
    fits: bool
    headroom: int
    activation_scale: float
    time_scale: float
    largest_micro_batch: int | None
    longest_context: int | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain data; :func:`plan_from_json` reads it."""
        return {"version": VERSION, **asdict(self)}


def plan_from_json(data: dict[str, Any]) -> Plan:
    """Read what :meth:`Plan.to_json` wrote.

    Raises:
        UsageError: ``usage.plan_version``: a later version wrote it; ``usage.plan_broken``: numbers are missing.
    """
    if data.get("version") != VERSION:
        raise UsageError(
            "a plan of another version cannot be read",
            code="usage.plan_version",
            value=f"version {data.get('version')}, known is {VERSION}",
        )
    try:
        values = {key: value for key, value in data.items() if key != "version"}
        values |= {"memory": MemoryPlan(**data["memory"]), "time": TimePlan(**data["time"])}
        return Plan(**{**values, "notes": tuple(data["notes"])})
    except (KeyError, TypeError) as error:
        raise UsageError("the plan cannot be read", code="usage.plan_broken", value=str(error)) from error


def make_plan(
    shape: ModelShape,
    resolved: Resolved,
    data: DataFacts,
    hardware: Hardware,
    *,
    counted: Counted | None = None,
    new_tokens: int = 0,
    estimated_tokens: bool = False,
) -> Plan:
    """Plan a resolved recipe.

    Args:
        shape: The model.
        resolved: The recipe, resolved for this hardware.
        data: The training data in tokens.
        hardware: Where it is to run.
        counted: What was counted in the built model, for techniques without a formula.
        new_tokens: Tokens that the model did not have.
        estimated_tokens: Whether the counts of tokens are a guess, made without the model's tokenizer.
    """

    def memory_of(one: Resolved, facts: DataFacts) -> MemoryPlan:
        return predict_memory(shape, one, facts, hardware, counted=counted, new_tokens=new_tokens)

    memory = memory_of(resolved, data)
    time = predict_time(shape, resolved, data, hardware, counted=counted, new_tokens=new_tokens)
    headroom = memory.headroom(hardware)
    context = min(MOST_TOKENS, shape.context_length or MOST_TOKENS)
    return Plan(
        model=shape.name,
        hardware=hardware.id,
        technique=resolved.technique.name,
        strategy=resolved.strategy,
        devices=resolved.devices,
        nodes=resolved.nodes,
        precision=resolved.precision,
        tokens_per_micro_batch=resolved.tokens_per_micro_batch,
        parameters=shape.parameters,
        memory=memory,
        time=time,
        fits=headroom >= 0,
        headroom=headroom,
        activation_scale=hardware.activation_scale,
        time_scale=hardware.time_scale,
        largest_micro_batch=_most(
            lambda tokens: fits(memory_of(_with_pack(resolved, tokens), data), hardware),
            min(FEWEST_TOKENS, max(1, data.longest_row)),
            MOST_TOKENS,
        ),
        longest_context=_most(
            lambda tokens: fits(memory_of(_with_pack(resolved, 1), _with_row(data, tokens)), hardware),
            min(FEWEST_TOKENS, context),
            context,
        ),
        notes=(
            *_notes(memory, hardware, estimated_tokens=estimated_tokens),
            *_guess_notes(memory, resolved.technique.name, counted),
        ),
    )


def fits(memory: MemoryPlan, hardware: Hardware) -> bool:
    """Whether all of it is there."""
    return memory.headroom(hardware) >= 0


def _with_pack(resolved: Resolved, tokens: int) -> Resolved:
    """The recipe with packs of so many tokens, and steps that fill one on every rank."""
    ranks = resolved.devices * resolved.nodes
    a_step = max(resolved.tokens_per_step, tokens * ranks)
    return replace(resolved, tokens_per_micro_batch=tokens, tokens_per_step=a_step)


def _with_row(data: DataFacts, tokens: int) -> DataFacts:
    """Data whose longest row has so many tokens, of which as many train as before."""
    share = data.trained_tokens / max(1, data.tokens)
    return replace(data, rows=1, tokens=tokens, trained_tokens=round(share * tokens), longest_row=tokens)


def _most(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The largest number in a range that something holds for, which holds for all smaller ones too."""
    if not holds(low):
        return None
    if holds(high):
        return high
    while high - low > max(1, low // 256):
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _notes(memory: MemoryPlan, hardware: Hardware, *, estimated_tokens: bool) -> Iterator[str]:
    if estimated_tokens:
        yield "tokens are an estimate from the texts' length: the model's tokenizer is not here"
    if hardware.device == "cuda":
        known = hardware.host_memory_bytes
        there = "unknown for this hardware" if known is None else f"{known / 2**30:.0f} GiB"
        yield (
            f"the host may need up to {memory.host / 2**30:.0f} GiB, most of it for files that it can drop again; "
            f"its memory is {there}"
        )
        if memory.offloaded:
            judged = "whether they are there is unknown" if known is None else "they are counted"
            yield f"of that {memory.offloaded / 2**30:.1f} GiB stay, since they are offloaded: {judged}"
    if hardware.activation_scale == 1 and hardware.time_scale == 1:
        yield "no run on this hardware has been held against a plan yet"


def _guess_notes(memory: MemoryPlan, technique: str, counted: Counted | None) -> Iterator[str]:
    if memory.trained_is_known:
        return
    why = (counted and counted.why) or "it was not counted in the built model"
    yield f"how much {technique} trains is a guess, as much as LoRA of rank 16 would: {why}"
