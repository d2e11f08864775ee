"""Azure Machine Learning and Azure Container Apps: names and addresses. Who is logged in is asked at run time."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tunesmith.recipe.parts import Number, Part, Positive, PositiveInt, Whole

Name = Annotated[str, Field(min_length=1, max_length=260)]
Address = Annotated[str, Field(pattern=r"^https://[A-Za-z0-9.:-]+$")]
# Kinds of job whose trainer is the service's own, and not our worker.
OWN_TRAINERS = ("finetuning", "registry-pipeline")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_SECRET = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", re.ASCII)
_VAULT_SECRET = re.compile(r"https://[A-Za-z0-9.-]+/secrets/[A-Za-z0-9-]+(/[A-Za-z0-9]+)?", re.ASCII)


class AzureML(Part):
    """A job of an Azure Machine Learning workspace."""

    name: Literal["azureml"] = "azureml"
    kind: Literal["command", "pipeline-component", "finetuning", "registry-pipeline"] = Field(
        "command",
        description="Our worker as a command job or as a component of a pipeline; or the service's own trainer: its "
        "fine-tuning job, or the chat completion pipeline of its registry.",
    )
    subscription: Name | None = Field(None, description="The subscription's id; else that of the az command's login.")
    resource_group: Name | None = Field(None, description="The resource group; else the az command's default.")
    workspace: Name | None = Field(None, description="The workspace; else the az command's default.")
    experiment: Name = Field("tunesmith", description="The experiment under which jobs are listed.")
    compute: Name | None = Field(None, description="A compute cluster of the workspace; none: compute of the service.")
    instance_types: tuple[Name, ...] = Field(
        (),
        description="Machine sizes such as Standard_NC24ads_A100_v4 for compute of the service; the fine-tuning job "
        "alone takes several to choose from.",
    )
    image: Name | None = Field(
        None,
        description="An image with Tunesmith in it, or an environment of the workspace (azureml:NAME:VERSION); the "
        "service's own trainers need none.",
    )
    shared_memory_gib: PositiveInt | None = Field(None, description="Shared memory of the worker's container.")
    identity: Literal["managed", "user"] | None = Field(
        None, description="As whom the worker reads its store: the compute's managed identity, or who submitted."
    )
    storage_account: Name | None = Field(
        None, description="The storage account of az:// addresses, as the worker finds it."
    )
    timeout_seconds: PositiveInt | None = Field(None, description="The worker is ended after so long.")
    job_tier: Literal["spot", "basic", "standard", "premium"] | None = Field(
        None, description="The tier of compute of the service; spot may be taken away."
    )
    model: Name | None = Field(
        None,
        description="For the service's own trainers: the base model's address (azureml://registries/azureml/models/"
        "NAME/versions/N), where the recipe's model is not one.",
    )
    provider: Literal["custom", "azure_open_ai"] = Field(
        "custom", description="Whose models the fine-tuning job tunes: those of the registry, or OpenAI's."
    )
    registered_model: Name | None = Field(None, description="What the tuned model is registered as; none: as the run.")
    hyperparameters: dict[Name, bool | Whole | Number | str] = Field(
        default_factory=dict,
        description="Settings of the service's own trainers that the recipe has no word for, by their names there.",
    )

    @property
    def trains_itself(self) -> bool:
        """Whether the service trains, and not our worker."""
        return self.kind in OWN_TRAINERS

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        ours = ("image", "shared_memory_gib", "identity", "storage_account", "timeout_seconds")
        theirs = ("model", "registered_model", "hyperparameters")
        wrong = [key for key in (ours if self.trains_itself else theirs) if getattr(self, key)]
        if self.kind != "finetuning" and self.provider != "custom":
            wrong.append("provider")
        if self.kind == "registry-pipeline" and self.job_tier is not None:
            wrong.append("job_tier")
        if wrong:
            raise ValueError(f"kind {self.kind} takes no {', '.join(wrong)}")
        if not self.trains_itself and self.image is None:
            raise ValueError(f"kind {self.kind} needs an image with Tunesmith in it")
        if self.compute is not None and self.instance_types:
            raise ValueError("a compute cluster has its machine size already; give one of compute and instance_types")
        if self.kind != "finetuning" and len(self.instance_types) > 1:
            raise ValueError(f"kind {self.kind} takes one of instance_types")
        return self


class ContainerApps(Part):
    """A job of an Azure Container Apps environment, in the form that AI Toolkit's remote fine-tuning has."""

    name: Literal["aca"] = "aca"
    subscription: Name | None = Field(None, description="The subscription's id; else that of the az command's login.")
    resource_group: Name | None = Field(None, description="The resource group; else the az command's default.")
    environment: Name = Field(description="The Container Apps environment.")
    job: Annotated[str, Field(max_length=31, pattern=r"^[a-z](-?[a-z0-9])*$")] = Field(
        "tunesmith",
        description="The job in it, by small letters, digits and single -; each submission is an execution.",
    )
    image: Name = Field(description="An image with Tunesmith in it, or one on which setup_commands install it.")
    setup_commands: tuple[str, ...] = Field((), description="What the container does before the worker starts.")
    cpu: Positive = Field(24.0, description="Cores; 24 is what the profile NC24-A100 has.")
    memory_gib: Positive = Field(220.0, description="Memory of the container.")
    gpu_profile: Name | None = Field(
        "GPU",
        description="The environment's workload profile with GPUs, by its name there; null: Consumption, without.",
    )
    timeout_seconds: PositiveInt = Field(10800, description="An execution is ended after so long.")
    retries: Annotated[Whole, Field(ge=0, le=10)] = Field(
        0, description="How often a worker that failed is started again; it goes on from its last checkpoint."
    )
    storage_account: Name | None = Field(
        None, description="The storage account of the file share, and of az:// addresses as the worker finds it."
    )
    file_share: Name | None = Field(None, description="A share of Azure Files that the container mounts.")
    environment_storage: Name | None = Field(
        None, description="What the environment calls the share; none: the share's own name."
    )
    mount_path: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]+$")] = Field(
        "/mount", description="Where the share is in the container."
    )
    identity: Name | None = Field(
        None, description="As whom the worker reads its store: system, or the resource id of a managed identity."
    )
    secrets: dict[str, str] = Field(
        default_factory=dict,
        description="Variables of the worker by the secret that they come from: a name that the job knows already, or "
        "the address of a secret in a Key Vault. Never the secret itself.",
    )
    resource_manager: Address = Field(
        "https://management.azure.com", description="The address of the Resource Manager; others for national clouds."
    )
    log_analytics: Address = Field(
        "https://api.loganalytics.azure.com", description="The address at which Log Analytics is asked for logs."
    )

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        for variable, secret in self.secrets.items():
            if not _VARIABLE.fullmatch(variable):
                raise ValueError(f"secrets: {variable!r} is no name of a variable")
            if not (_SECRET.fullmatch(secret) or _VAULT_SECRET.fullmatch(secret)):
                # What stands there may be a secret itself.
                raise ValueError(
                    f"secrets: what {variable} comes from is neither the name of a secret (a-z, 0-9, -, .) nor "
                    "https://VAULT.vault.azure.net/secrets/NAME"
                )
        if any(_VAULT_SECRET.fullmatch(secret) for secret in self.secrets.values()) and self.identity is None:
            raise ValueError("secrets of a Key Vault are read as identity: give system, or a managed identity's id")
        if self.file_share is not None and self.storage_account is None:
            raise ValueError("file_share needs storage_account")
        if self.environment_storage is not None and self.file_share is None:
            raise ValueError("environment_storage needs file_share")
        if any("\n" in command for command in self.setup_commands):
            raise ValueError("setup_commands are single lines")
        return self
