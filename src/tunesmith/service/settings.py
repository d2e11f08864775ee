"""What a service is told when it is started; the same for each of its processes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tunesmith.runs.atomic import read_json, write_json

# Names the folder in which prometheus_client counts; it looks once, when it is loaded.
COUNTS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# What is counted and may have a price.
UseKind = Literal["input_tokens", "output_tokens", "trained_tokens", "requests", "stored_byte_hours"]
Price = Annotated[float, Field(ge=0)]


class OpenIdSettings(BaseModel):
    """Where people sign in; the client's secret is in an environment variable."""

    model_config = ConfigDict(extra="forbid")
    issuer: str
    client_id: str
    secret_variable: str = "TUNESMITH_OIDC_SECRET"  # noqa: S105  (a name, not a secret)
    admin_emails: list[str] = []
    allowed_domains: list[str] = []
    # Providers of a single company may not say of an address that it is verified.
    require_verified_email: bool = True


class Limits(BaseModel):
    """What nobody may exceed; a project may have tighter ones."""

    model_config = ConfigDict(extra="forbid")
    file_bytes: int = 512 * 2**20
    upload_bytes: int = 8 * 2**30
    part_bytes: int = 64 * 2**20
    body_bytes: int = 32 * 2**20
    project_bytes: int = 2_500 * 2**30
    batch_requests: int = 50_000
    batch_bytes: int = 200 * 2**20
    # Of each key; tokens of each project.
    requests_per_minute: int = 3_000
    tokens_per_minute: int | None = None
    # Of one address: keys and sign-ins that were not good.
    failures_per_minute: int = 30
    # Of the whole service, wherever they train; see Settings.jobs_at_once.
    jobs_at_once: int | None = Field(default=None, ge=1)
    jobs_waiting: int = 1_000
    # Of each machine that has a dispatcher; each loads a model.
    evaluations_at_once: int = Field(default=1, ge=0, le=64)


class Settings(BaseModel):
    """A service. Nothing in it is secret: those are in the database, the environment, or files of the data folder.

    ``executor`` is a recipe's section: where jobs train. ``storage`` is where files, uploads, results and runs lie; the
    data folder unless it is said.
    ``models`` are ids of the catalog, or ``NAME=FOLDER``. ``engine_address`` is where the processes that answer listen,
    and where the API reaches them; a request waits ``engine_wait_seconds`` for one that is being started.
    ``metrics_without_key`` lets whoever reaches the port read ``/metrics``; else that is for administrators.
    ``webhook_networks`` (such as ``10.0.0.0/8``) are those inside the house to which webhooks may point.
    ``trusted_proxies`` are addresses whose word on a request's origin is taken. ``logs`` go to the data folder, or to
    the standard error stream, as containers want it.
    """

    model_config = ConfigDict(extra="forbid")
    data_folder: Path
    database: str
    storage: str
    executor: dict[str, Any] = {"name": "local"}
    host: str = "127.0.0.1"
    port: int = 8321
    api_processes: int = Field(default=1, ge=1, le=64)
    trusted_proxies: list[str] = []
    public_url: str | None = None
    organization: str = "tunesmith"
    models: list[str] = ["smollm2-135m-instruct"]
    limits: Limits = Field(default_factory=Limits)
    prices: dict[str, dict[UseKind, Price]] = {}
    currency: str = "USD"
    file_retention_days: int | None = None
    job_retention_days: int | None = None
    engine_idle_seconds: float = 900.0
    engines_at_once: int = 2
    engine_wait_seconds: float = 120.0
    engine_address: str = "127.0.0.1"
    openid: OpenIdSettings | None = None
    metrics_without_key: bool = False
    traces: str | None = None
    secure_cookies: bool = False
    session_hours: float = 12.0
    webhook_networks: list[str] = []
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    logs: Literal["files", "stderr"] = "files"

    @field_validator("prices")
    @classmethod
    def _bytes_are_of_no_model(cls, prices: dict[str, dict[UseKind, Price]]) -> dict[str, dict[UseKind, Price]]:
        """Bytes are stored for a project: a model's price of them would never be asked for."""
        if any("stored_byte_hours" in kinds for model, kinds in prices.items() if model != "*"):
            raise ValueError("the price of stored_byte_hours is given under * alone")
        return prices

    @property
    def settings_file(self) -> Path:
        """What the processes of the service read."""
        return settings_file(self.data_folder)

    @property
    def logs_folder(self) -> Path:
        """Where the processes write what they do."""
        return self.data_folder / "logs"

    @property
    def counts_folder(self) -> Path:
        """Where the processes that take requests count them, so that each can tell the sum."""
        return self.data_folder / "counts"

    @property
    def runs_folder(self) -> Path:
        """Where runs lie as this machine sees them."""
        return self.data_folder / "runs"

    @property
    def registry(self) -> str:
        """The address of the registry of tuned models."""
        return f"{self.storage}/registry"

    @property
    def jobs_at_once(self) -> int | None:
        """Jobs that may train at the same time; None: as many as there are, since the executor has a queue of its own.

        Unless it is said, this machine trains one at a time, and no other executor has a limit here.
        """
        chosen = self.limits.jobs_at_once
        return 1 if chosen is None and not self.shares_runs else chosen

    @property
    def shares_runs(self) -> bool:
        """Whether workers of other machines find their runs in the storage."""
        return bool(self.executor.get("name", "local") != "local")


def settings_file(data_folder: Path) -> Path:
    """Where a data folder's settings are."""
    return data_folder / "settings.json"


def write_settings(settings: Settings, path: Path) -> None:
    """Write settings for the processes of a service."""
    write_json(path, settings.model_dump(mode="json"))


def read_settings(path: Path) -> Settings:
    """Settings that another process wrote."""
    return Settings.model_validate(read_json(path))
