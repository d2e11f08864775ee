"""KAITO, the operator that tunes and serves models on Kubernetes with a trainer and a server of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from tunesmith.recipe.parts import Number, Part, PositiveInt

_IMAGE = re.compile(
    r"[a-z0-9][A-Za-z0-9._-]*(:\d{1,5})?(/[a-z0-9._-]+)*(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?", re.ASCII
)
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*", re.ASCII)


def _is_image(value: str) -> str:
    if not _IMAGE.fullmatch(value):
        raise ValueError("an image is written registry/repository:tag")
    return value


def _is_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("a name of Kubernetes has lowercase letters, digits, inside also - and .")
    return value


def _is_inner_path(value: str) -> str:
    if not _FILE.fullmatch(value):
        raise ValueError("a file is a relative path of letters, digits, '.', '_' and '-'")
    return value


# Names of namespaces, secrets and claims.
DnsName = Annotated[str, AfterValidator(_is_name)]
Image = Annotated[str, AfterValidator(_is_image)]


class KaitoInput(Part):
    """Where KAITO finds the one file of rows that it trains on."""

    url: str | None = Field(
        None, description="http(s) address of the file, or of the folder that shows the store; without any signature."
    )
    image: Image | None = Field(None, description="An image whose folder /data holds the file.")
    volume_claim: DnsName | None = Field(None, description="A claim on a volume that holds the file.")
    file: Annotated[str, AfterValidator(_is_inner_path)] | None = Field(
        None, description="The file's path on the volume; of rows that are put into a store, their name there."
    )
    format: Literal["json", "csv", "parquet"] = Field(
        "json", description="What the file is (json: also JSON lines), where its rows are not put there by Tunesmith."
    )
    pull_secrets: tuple[DnsName, ...] = Field((), description="Names of secrets with which the image is pulled.")
    store: Annotated[str, StringConstraints(min_length=1)] | None = Field(
        None,
        description="Where Tunesmith puts the rows before it makes the Workspace: a store (az://, s3://, a folder) "
        "that url or volume_claim shows to the cluster. null: they lie there already.",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_secret(cls, given: Any) -> Any:
        """Before all else, and of the whole mapping, so that no message shows the address."""
        url = given.get("url") if isinstance(given, Mapping) else None
        if not isinstance(url, str):
            return given
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url begins with https:// or http://")
        if parts.query or parts.username or parts.password or parts.fragment:
            raise ValueError(
                "url must not hold a signature or a password, which would stand in the Workspace for all to read; "
                "use volume_claim, or image with pull_secrets"
            )
        return given

    @model_validator(mode="after")
    def _sensible(self) -> KaitoInput:
        if [self.url, self.image, self.volume_claim].count(None) != 2:
            raise ValueError("exactly one of url, image and volume_claim must be given, as KAITO wants it")
        if self.url is not None and self.store is None and self.url.endswith("/"):
            raise ValueError("url must name the file; a folder is named where rows are put into a store")
        if self.pull_secrets and self.image is None:
            raise ValueError("pull_secrets belong to image")
        if self.store is not None and self.image is not None:
            raise ValueError("rows cannot be put into an image: leave store out, or use url or volume_claim")
        if self.volume_claim is not None and self.file is None and self.store is None:
            raise ValueError("volume_claim needs file, else KAITO takes whichever file it finds first")
        if self.file is not None and self.volume_claim is None and self.store is None:
            raise ValueError("file belongs to volume_claim or store")
        return self


class KaitoOutput(Part):
    """Where KAITO leaves the adapter."""

    image: Image | None = Field(None, description="The image that the adapter is pushed as, registry/repository:tag.")
    push_secret: DnsName | None = Field(None, description="Name of the secret with which it is pushed.")
    volume_claim: DnsName | None = Field(None, description="A claim on a volume that keeps the adapter.")

    @model_validator(mode="after")
    def _sensible(self) -> KaitoOutput:
        if (self.image is None) == (self.volume_claim is None):
            raise ValueError("exactly one of image and volume_claim must be given, as KAITO wants it")
        if (self.image is None) != (self.push_secret is None):
            raise ValueError("image and push_secret go together: KAITO pushes with no other credentials")
        return self


class KaitoCluster(Part):
    """Which cluster, and which of its nodes."""

    namespace: DnsName = Field("default", description="The namespace of Workspaces.")
    context: str | None = Field(None, description="Context of the kubeconfig; null: the current one.")
    instance_type: Annotated[str, StringConstraints(min_length=1)] | None = Field(
        None,
        description="Kind of node that KAITO makes, such as Standard_NC24ads_A100_v4; null: nodes that are there.",
    )
    labels: dict[str, str] = Field(default_factory=dict, description="Labels that the nodes must have.")
    model_access_secret: DnsName | None = Field(
        None, description="Name of the secret that holds the hub's token (key HF_TOKEN), for models that need one."
    )

    @model_validator(mode="after")
    def _has_nodes(self) -> KaitoCluster:
        if self.instance_type is None and not self.labels:
            raise ValueError("instance_type (nodes are made) or labels (of nodes that are there) must be given")
        return self


class Kaito(KaitoCluster):
    """A tuning Workspace of KAITO: its trainer, not ours, for low-rank adapters of its presets."""

    name: Literal["kaito"] = "kaito"
    preset: str = Field("auto", min_length=1, description="KAITO's name of the model; auto: by the model's hub id.")
    input: KaitoInput = Field(description="Where the rows are.")
    output: KaitoOutput = Field(description="Where the adapter goes.")
    chat_template: Annotated[str, StringConstraints(min_length=1)] | None = Field(
        None, description="A chat template in one line, or its path in KAITO's image; null: that of the model."
    )
    rows_per_step: PositiveInt = Field(8, description="Rows of one optimizer step, of all GPUs together.")
    rows_per_micro_batch: PositiveInt = Field(1, description="Rows that go through the model at once on each GPU.")


class KaitoServing(KaitoCluster):
    """An inference Workspace of KAITO: a base model, and adapters that were tuned for it."""

    preset: str = Field(min_length=1, description="KAITO's name of the base model.")
    pull_secrets: tuple[DnsName, ...] = Field((), description="Names of secrets with which adapters are pulled.")
    strength: Number = Field(1.0, ge=0, le=1, description="How strongly adapters count.")
    largest_rank: PositiveInt = Field(16, description="The largest rank of any adapter.")
