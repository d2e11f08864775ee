"""A Kubernetes cluster: a Job, a TrainJob of Kubeflow, or a RayJob of KubeRay."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tunesmith.recipe.parts import Part, PositiveInt, Whole


def _text(value: Any) -> Any:
    """A bare number is a quantity too: ``cpu: 4``."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


# As the API server reads it, without signs and exponents.
Quantity = Annotated[str, BeforeValidator(_text), Field(pattern=r"^[0-9]+(\.[0-9]+)?([KMGTPE]i|[mkMGTPE])?$")]
DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Resources(Part):
    """What each machine's container asks for, and may have at most."""

    cpu: Quantity | None = Field(None, description="Cores of each machine, such as 4 or 500m.")
    memory: Quantity | None = Field(None, description="Memory of each machine, such as 16Gi.")
    gpu: Whole = Field(0, ge=0, description="GPUs of each machine: as many as train.devices, or 0 to train without.")
    gpu_name: str = Field("nvidia.com/gpu", min_length=1, description="What the cluster calls its GPUs.")


class Toleration(Part):
    """A taint of nodes that is no reason not to run there."""

    key: str | None = Field(None, description="The taint; null with Exists: every taint.")
    operator: Literal["Equal", "Exists"] = Field("Equal", description="Whether the value counts.")
    value: str | None = Field(None, description="The taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="The taint's effect; null: every effect."
    )


class Kubernetes(Part):
    """A cluster that a kubeconfig, or the pod that this command runs in, gives access to."""

    name: Literal["kubernetes"] = "kubernetes"
    kind: Literal["job", "trainjob", "rayjob"] = Field(
        "job",
        description="What is submitted: a Job (one machine), a TrainJob (Kubeflow Trainer), a RayJob (KubeRay).",
    )
    image: str = Field(min_length=1, description="The container image that has Tunesmith, see deploy/Dockerfile.")
    namespace: DnsLabel = Field("default", description="The namespace of everything that is submitted.")
    context: str | None = Field(None, min_length=1, description="The kubeconfig's context; null: its current one.")
    service_account: DnsName | None = Field(
        None, description="The service account of the pods, which may give them access to the storage."
    )
    secret: DnsName | None = Field(
        None, description="The name of a Secret whose keys become variables of the worker; its values are never read."
    )
    secret_keys: tuple[VariableName, ...] = Field(
        (), description="Which of the Secret's keys; none named: all. A TrainJob needs their names."
    )
    claim: DnsName | None = Field(
        None, description="A volume claim on which runs lie, for a --storage that is a folder below mount_path."
    )
    mount_path: str = Field("/runs", pattern=r"^/[^:]+$", description="Where the claim is mounted in the pods.")
    resources: Resources = Field(Resources(), description="What each machine has.")
    node_selector: dict[str, str] = Field({}, description="Labels that nodes must have.")
    tolerations: tuple[Toleration, ...] = Field((), description="Taints of nodes that do not matter.")
    runtime: DnsName | None = Field(
        None, description="The ClusterTrainingRuntime of a TrainJob; null: torch-distributed."
    )
    deadline_seconds: PositiveInt | None = Field(
        None, description="The platform ends the job after so long, whatever it does; null: never."
    )
    ttl_seconds: Whole | None = Field(
        None,
        ge=0,
        description="How long the platform keeps an ended Job, or the cluster of a RayJob; null: a Job for ever, a "
        "cluster not at all. Not of a TrainJob.",
    )
    retries: Whole | None = Field(
        None,
        ge=0,
        description="How often a worker that died is replaced; null: 3 times of a Job, never of a RayJob. Of a "
        "TrainJob its runtime says it.",
    )
