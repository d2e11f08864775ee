"""A Ray cluster."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from tunesmith.recipe.parts import Part, Positive, PositiveInt, Whole

# Ray has names of its own for these, and settings of ours mean them.
_OWN_RESOURCES = frozenset({"CPU", "GPU", "memory", "object_store_memory"})


class Ray(Part):
    """A job of a Ray cluster; with train.nodes it is that many workers of Ray Train."""

    name: Literal["ray"] = "ray"
    address: str | None = Field(
        None,
        description="The cluster's dashboard (http://HOST:8265), ray://HOST:10001 or HOST:6379; without it "
        "RAY_API_SERVER_ADDRESS or RAY_ADDRESS of the environment.",
    )
    cpus: PositiveInt = Field(
        1, description="Cores that each machine's worker asks of Ray, and threads of all its processes together."
    )
    gpus: Annotated[Whole, Field(ge=0)] = Field(
        0, description="GPUs that each machine's worker asks of Ray: none, or as many as train.devices."
    )
    memory_gib: Positive | None = Field(None, description="Memory that each machine's worker asks of Ray.")
    resources: dict[str, Positive] = Field(
        default_factory=dict,
        description="Resources with names of the cluster's own that each machine's worker asks for.",
    )
    max_failures: Annotated[Whole, Field(ge=0)] = Field(
        3, description="How often a worker that died is replaced by one that goes on from the last checkpoint."
    )
    pip: tuple[str, ...] = Field(
        (), description="Packages that Ray installs for the job, as pip is told them; else those of the cluster serve."
    )
    working_directory: str | None = Field(
        None, description="A folder of this machine that Ray brings along, or the address of an archive of one."
    )

    @model_validator(mode="after")
    def _is_fit_to_be_kept(self) -> Ray:
        # Errors of single fields would show the value.
        words = [self.address or "", self.working_directory or "", *" ".join(self.pip).replace("=", " ").split()]
        if any(_has_credentials(word) for word in words):
            raise ValueError("holds credentials in an address; Ray and pip read those from their own environment")
        taken = sorted(_OWN_RESOURCES & set(self.resources))
        if taken:
            raise ValueError(f"asks for {', '.join(taken)} under resources: use cpus, gpus and memory_gib")
        return self


def _has_credentials(address: str) -> bool:
    parts = urlsplit(address) if "://" in address else None
    return parts is not None and bool(parts.username or parts.password)
