"""What OpenAI's clients send and get: the forms of jobs, events, checkpoints and permissions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator
from sqlalchemy import Row

Auto = Literal["auto"]


def _whole(least: int, most: int) -> PlainValidator:
    def check(value: Any) -> Any:
        is_whole = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        if value != "auto" and not is_whole:
            raise ValueError(f"must be auto, or a whole number from {least} to {most}")
        return value

    return PlainValidator(check)


def _number(most: float) -> PlainValidator:
    def check(value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= most
        if value != "auto" and not is_number:
            raise ValueError(f"must be auto, or a number above 0 and at most {most:g}")
        return value if value == "auto" else float(value)

    return PlainValidator(check)


_MOST_PAIRS, _KEY_LETTERS, _VALUE_LETTERS = 16, 64, 512


def _metadata(value: dict[str, str] | None) -> dict[str, str] | None:
    if value is None:
        return None
    if len(value) > _MOST_PAIRS:
        raise ValueError(f"at most {_MOST_PAIRS} pairs")
    if any(len(key) > _KEY_LETTERS or len(text) > _VALUE_LETTERS for key, text in value.items()):
        raise ValueError(f"keys have at most {_KEY_LETTERS} characters and values {_VALUE_LETTERS}")
    return value


class Given(BaseModel):
    """Base of what comes in: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class Hyperparameters(Given):
    """Of a supervised job."""

    n_epochs: Annotated[Auto | int, _whole(1, 50)] = "auto"
    batch_size: Annotated[Auto | int, _whole(1, 256)] = "auto"
    learning_rate_multiplier: Annotated[Auto | float, _number(1e6)] = "auto"


class DpoHyperparameters(Hyperparameters):
    """Of a job that learns preferences."""

    beta: Annotated[Auto | float, _number(2)] = "auto"


class Supervised(Given):
    """Settings of the method ``supervised``."""

    hyperparameters: Hyperparameters = Field(default_factory=Hyperparameters)


class Dpo(Given):
    """Settings of the method ``dpo``."""

    hyperparameters: DpoHyperparameters = Field(default_factory=DpoHyperparameters)


class Method(Given):
    """How the model is to learn."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: dict[str, Any] | None = None


class CreateJob(Given):
    """A request for a job.

    ``tunesmith`` are options of our own, see :mod:`tunesmith.service.fine_tuning.options`; ``trainingType`` is Azure's.
    """

    model: Annotated[str, Field(min_length=1, max_length=255)]
    training_file: Annotated[str, Field(min_length=1, max_length=64)]
    validation_file: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, le=2147483647, strict=True)] | None = None
    metadata: Annotated[dict[str, str] | None, AfterValidator(_metadata)] = None
    integrations: list[dict[str, Any]] | None = None
    trainingType: Annotated[str, Field(max_length=32)] | None = None  # noqa: N815  (Azure's name)
    tunesmith: dict[str, Any] = Field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The method's name."""
        return "supervised" if self.method is None else self.method.type

    @property
    def numbers(self) -> Hyperparameters:
        """The hyperparameters, wherever they were given."""
        method = self.method
        if method is not None and method.type == "dpo":
            if method.dpo is not None:
                return method.dpo.hyperparameters
            return DpoHyperparameters(**({} if self.hyperparameters is None else self.hyperparameters.model_dump()))
        if method is not None and method.supervised is not None:
            return method.supervised.hyperparameters
        return self.hyperparameters or Hyperparameters()


class CreatePermissions(Given):
    """A request to let other projects use a checkpoint."""

    project_ids: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=100)]


def job_json(row: Row[Any], organization: str) -> dict[str, Any]:
    """A job as the contract has it; ``paused`` is a status, as in the contract's own example."""
    running = row.state not in ("succeeded", "failed", "cancelled")
    numbers = dict(row.hyperparameters)
    method = {"type": row.method["type"], row.method["type"]: {"hyperparameters": numbers}}
    return {
        "id": row.id,
        "object": "fine_tuning.job",
        "created_at": int(row.created_at),
        "finished_at": _moment(row.finished_at),
        "model": row.model,
        "fine_tuned_model": row.fine_tuned_model,
        "organization_id": organization,
        "status": row.state,
        "training_file": row.training_file,
        "validation_file": row.validation_file,
        "result_files": list(row.result_files),
        "hyperparameters": {key: value for key, value in numbers.items() if key != "beta"},
        "trained_tokens": None if running else row.trained_tokens or 0,
        "error": row.error,
        "user_provided_suffix": row.suffix,
        "seed": row.seed,
        "estimated_finish": _moment(row.estimated_finish),
        "integrations": [],
        "method": method,
        "metadata": row.metadata,
    }


def event_json(row: Row[Any]) -> dict[str, Any]:
    """An event."""
    return {
        "object": "fine_tuning.job.event",
        "id": row.id,
        "created_at": int(row.created_at),
        "level": row.level,
        "message": row.message,
        "type": row.type,
        "data": row.data or {},
    }


def checkpoint_json(row: Row[Any]) -> dict[str, Any]:
    """A checkpoint."""
    return {
        "object": "fine_tuning.job.checkpoint",
        "id": row.id,
        "created_at": int(row.created_at),
        "fine_tuned_model_checkpoint": row.name,
        "fine_tuning_job_id": row.job_id,
        "step_number": row.step,
        "metrics": dict(row.metrics),
    }


def permission_json(row: Row[Any]) -> dict[str, Any]:
    """A permission."""
    return {
        "object": "checkpoint.permission",
        "id": row.id,
        "created_at": int(row.created_at),
        "project_id": row.project_id,
    }


def error_json(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """Why a job failed."""
    return {"code": code, "message": message, "param": param}


def _moment(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
