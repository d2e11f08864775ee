"""Write the rows of the sample dialogues from scripts/dialogue_frames.yaml, or check that they are current.

python scripts/make_dialogues.py            write train.jsonl and heldout.jsonl
python scripts/make_dialogues.py --check    fail when one of them is not what the frames give
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sample_writing import in_mixed_order, json_lines, write_or_check

ROOT = Path(__file__).resolve().parents[1]
FRAMES = ROOT / "scripts" / "dialogue_frames.yaml"
FOLDER = ROOT / "src" / "tunesmith" / "samples" / "dialogues"
FILLINGS = {"train": 12, "heldout": 3}
SEED = 20
OPEN_DAYS = ("Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
CLOSED_DAYS = ("Sunday", "Monday")
DAYS_OF_RENT = range(2, 8)


@dataclass(frozen=True)
class Service:
    """A job of the workshop: its price in euros, the opening days that it takes, and signs of its need by side."""

    name: str
    price: int
    days: int
    symptoms: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Row:
    """A filled scene: its name, the job and the day that it is about, and its messages."""

    scene: str
    service: str
    day: str
    messages: Sequence[Mapping[str, str]]


def main() -> int:
    """Write or check the two files; returns the exit code."""
    return write_or_check("dialogues", FOLDER, sample_files)


def sample_files() -> dict[str, str]:
    """The text of each file by its name."""
    return {f"{part}.jsonl": json_lines({"messages": row.messages} for row in rows(part)) for part in FILLINGS}


def rows(part: str) -> list[Row]:
    """The rows of a side in the order of its file: every scene once in mixed order, then once again, and so on."""
    content = yaml.safe_load(FRAMES.read_text(encoding="utf-8"))
    filled = [fill(content, index, part) for index in range(len(content["scenes"]))]
    return in_mixed_order(filled, SEED)


def fill(content: Mapping[str, Any], index: int, part: str) -> list[Row]:
    """The fillings of a scene; each takes up another job.

    Each scene has its own sequence of draws, so that a changed scene leaves the rows of the others alone.
    """
    scene = content["scenes"][index]
    services = [Service(name, **facts) for name, facts in content["services"].items()]
    draw = random.Random(f"{SEED} {part} {scene['name']}")
    filled = []
    for turn in range(FILLINGS[part]):
        # The held-out side takes only some jobs from each scene, and should come around to all of them.
        position = (index * FILLINGS[part] + turn) % len(services)
        values = draw_values(content, services, position, part, draw)
        messages = [{"role": "system", "content": content["system"]}]
        for exchange in scene["exchanges"]:
            for role, frame in (("user", draw.choice(exchange[part])), ("assistant", exchange["answer"])):
                messages.append({"role": role, "content": sentence_case(frame.format_map(values))})
        filled.append(Row(scene["name"], str(values["service"]), str(values["day"]), messages))
    return filled


def draw_values(
    content: Mapping[str, Any], services: Sequence[Service], position: int, part: str, draw: random.Random
) -> dict[str, str | int]:
    """What stands in each place, with the job at ``position``."""
    cast = content["cast"][part]
    service = services[position]
    day = draw.choice([day for day in OPEN_DAYS if (kept_day(position) == day) == (part == "heldout")])
    later = [other for other in OPEN_DAYS if other != day and (part == "heldout" or other != kept_day(position))]
    day2 = draw.choice(later)
    others = [
        other
        for place, other in enumerate(services)
        if place != position and (kept_day(place) == day) == (part == "heldout")
    ]
    service2 = draw.choice(others)
    bike, bike2 = draw.sample(cast["bike"], 2)
    # On Saturdays the workshop closes at 13.
    times = cast["morning"] + (cast["afternoon"] if "Saturday" not in (day, day2) else [])
    values: dict[str, str | int] = {
        "closing": content["closing"],
        **content["fixed"],
        **{kind: draw.choice(cast[kind]) for kind in ("name", "spot", "part")},
        **{kind: draw_number(cast[kind], draw) for kind in ("number", "rest", "change")},
        "bike": bike,
        "bike2": bike2,
        "time": draw.choice(times),
        "service": service.name,
        "price": service.price,
        "ready": ready(day, service.days),
        "symptom": draw.choice(service.symptoms[part]),
        "service2": service2.name,
        "price2": service2.price,
        "ready_both": ready(day, max(service.days, service2.days)),
        "day": day,
        "day2": day2,
        "next": ready(day, 1),
        "closed": draw.choice(CLOSED_DAYS),
        "hours": "9 to 13" if day == "Saturday" else "9 to 18",
        "count": draw.choice(DAYS_OF_RENT),
    }
    return values | sums(values)


def kept_day(position: int) -> str:
    """The day of the job at this position that only held-out rows ask for."""
    return OPEN_DAYS[2 * position % len(OPEN_DAYS)]


def draw_number(bounds: str, draw: random.Random) -> int:
    """A number from a range such as ``13 to 49``, both ends included."""
    first, last = bounds.split(" to ")
    return draw.randint(int(first), int(last))


def ready(day: str, opening_days: int) -> str:
    """When something is done that comes in on ``day`` and takes this many opening days more."""
    if not opening_days:
        return "the same day"
    return f"on {OPEN_DAYS[(OPEN_DAYS.index(day) + opening_days) % len(OPEN_DAYS)]}"


def sums(values: Mapping[str, Any]) -> dict[str, int]:
    """The amounts, in euros, that follow from the others."""
    rent = values["count"] * values["loan"]
    return {
        "rent": rent,
        "hired": rent + values["deposit"],
        "total": values["price"] + values["price2"],
        "fetched": values["price"] + values["collection"],
        "amount": values["deposit"] + values["rest"],
        "voucher": values["price"] + values["change"],
    }


def sentence_case(text: str) -> str:
    """The text with a capital at its beginning, where a frame may begin with a filling."""
    return text[0].upper() + text[1:]


if __name__ == "__main__":
    sys.exit(main())
