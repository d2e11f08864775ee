"""A service that speaks OpenAI's language for fine-tuning: OpenAI, Azure OpenAI, and others that copy it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tunesmith.recipe.parts import Auto, Part, Positive, Whole

# Neither a name with a password before the host nor a query: an address must not carry a credential.
Address = Annotated[str, Field(pattern=r"^https?://[^@?#\s]+$")]
_AZURE_SUFFIX = 40


class OpenAi(Part):
    """A service with OpenAI's contract, which trains by itself; the tuned model stays there."""

    name: Literal["openai"] = "openai"
    model: str = Field(
        min_length=1, description="The service's name of what is tuned: a base model, or a tuned one to go on from."
    )
    api: Literal["openai", "azure"] = Field(
        "openai", description="openai, also for Azure's newer paths (.../openai/v1); azure: paths with api_version."
    )
    base_url: Address | None = Field(
        None, description="Address of the service's paths, such as https://host/v1; null: OPENAI_BASE_URL, else OpenAI."
    )
    endpoint: Address | None = Field(
        None, description="Address of the Azure resource, with api: azure; null: AZURE_OPENAI_ENDPOINT."
    )
    api_version: str | None = Field(
        None, min_length=1, description="Version of Azure's paths, with api: azure; null: OPENAI_API_VERSION."
    )
    key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")] | None = Field(
        None,
        description="Name of the environment variable that holds the key; null: OPENAI_API_KEY, or "
        "AZURE_OPENAI_API_KEY with api: azure.",
    )
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        None, description="Becomes part of the tuned model's name."
    )
    training_type: Annotated[str, Field(pattern=r"^[A-Za-z]{1,40}$")] | None = Field(
        None, description="Azure's kind of capacity: Standard, GlobalStandard or Developer."
    )
    learning_rate_multiplier: Auto | Positive = Field(
        "auto", description="What the service's own learning rate is multiplied by."
    )
    batch_size: Auto | Annotated[Whole, Field(ge=1, le=256)] = Field("auto", description="Rows of a step.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.api == "azure" and self.base_url is not None:
            raise ValueError("api: azure has an endpoint in place of a base_url")
        if self.api == "openai" and (self.endpoint is not None or self.api_version is not None):
            raise ValueError("endpoint and api_version belong to api: azure; api: openai has a base_url")
        if self.api == "azure" and self.suffix is not None and len(self.suffix) > _AZURE_SUFFIX:
            raise ValueError(f"Azure takes a suffix of at most {_AZURE_SUFFIX} characters")
        return self
