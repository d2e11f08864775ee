"""Where a run takes place, one variant for each platform. Addresses and names, never credentials."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from tunesmith.recipe.executors.azure import AzureML, ContainerApps
from tunesmith.recipe.executors.kaito import Kaito
from tunesmith.recipe.executors.kubernetes import Kubernetes
from tunesmith.recipe.executors.local import Local
from tunesmith.recipe.executors.openai import OpenAi
from tunesmith.recipe.executors.ray import Ray

ExecutorSpec = Local | Kaito | OpenAi | Ray | Kubernetes | AzureML | ContainerApps


def _named(value: Any) -> Any:
    """A bare name is the variant with its defaults."""
    return {"name": value} if isinstance(value, str) else value


Executor = Annotated[Annotated[ExecutorSpec, Field(discriminator="name")], BeforeValidator(_named)]
