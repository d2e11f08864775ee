"""What an hour of this machine costs its user, who says so in a file that TUNESMITH_PRICE names.

    price_per_hour: 0.11                    # of one GPU, or of the machine where it has none
    currency: EUR
    price_date: 2026-11-01
    price_source: our own accounting

A hardware file with a price would replace what was measured of this machine; this adds the price and nothing else. (The
price above is an example and nobody's.)
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from tunesmith.errors import UsageError
from tunesmith.planner.hardware import Hardware, problems_of, read_mapping

VARIABLE = "TUNESMITH_PRICE"
KEYS = ("price_per_hour", "currency", "price_date", "price_source")
_CODE = "usage.price_file"


def with_own_price(machine: Hardware) -> Hardware:
    """This machine with the price that its user gives; as it is where TUNESMITH_PRICE is not set.

    Raises:
        UsageError: ``usage.price_file``: the file is not there or holds no price, all that is wrong with it at once.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return machine
    path = Path(named).expanduser()
    given = read_mapping(path, "the price file", _CODE)
    unknown = [key for key in given if key not in KEYS]
    if unknown:
        raise UsageError(
            "the price file holds more than a price",
            code=_CODE,
            place=str(path),
            value=", ".join(map(str, unknown)),
            hint=f"{VARIABLE} names a file with {', '.join(KEYS)} alone; of other machines --hardware takes one",
        )
    missing = [key for key in KEYS if key not in given]
    if missing:
        raise UsageError(
            "the price file holds no whole price", code=_CODE, place=str(path), value=f"{', '.join(missing)} missing"
        )
    try:
        return Hardware.model_validate({**machine.model_dump(), **given})
    except ValidationError as error:
        raise UsageError(
            "the price file holds no price", place=str(path), problems=problems_of(error, _CODE)
        ) from error
