"""This machine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.recipe.parts import Auto, Part, Positive, PositiveInt


class Local(Part):
    """A process of this machine, one after another unless more may run at once."""

    name: Literal["local"] = "local"
    memory_gib: Positive | None = Field(
        None, description="The most memory that the job's processes may take together; they are ended beyond it."
    )
    threads: Auto | PositiveInt = Field(
        "auto", description="Threads of each process; auto: as many as there are cores."
    )
