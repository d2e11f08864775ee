"""What the parts of a recipe are made of: numbers that are what they say, and a base that refuses unknown keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticKnownError

# Random generators take seeds of 32 bits, and JSON readers keep whole numbers of 53.
MOST_SEED = 2**32 - 1
MOST_WHOLE = 2**53 - 1


def _no_flag(value: Any) -> Any:
    """True is no 1: whoever writes ``epochs: true`` meant something else."""
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


Auto = Literal["auto"]
Number = Annotated[float, BeforeValidator(_no_flag), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(gt=0, lt=1)]
ShareOrZero = Annotated[Number, Field(ge=0, lt=1)]
Whole = Annotated[int, BeforeValidator(_no_flag), Field(le=MOST_WHOLE)]
PositiveInt = Annotated[Whole, Field(ge=1)]


def variant_names(variant: type[BaseModel]) -> tuple[str, ...]:
    """The names that a variant of technique or objective goes by."""
    return get_args(variant.model_fields["name"].annotation)


class Part(BaseModel):
    """Base of all parts: values cannot change, unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
