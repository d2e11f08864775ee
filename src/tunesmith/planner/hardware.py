"""What a machine is, as far as a plan needs to know it: profiles that ship with Tunesmith, and your own.

    load_hardware("a100-80gb")              # a profile of planner/data/hardware.yaml
    load_hardware("our-cluster.yaml")       # a file of your own
    this_machine(host)                      # what was measured here

A file holds one profile; the first six keys have to be there, and ``host_memory_bytes`` on a processor:

    id: our-cluster
    name: Eight A100 of the rack in the cellar
    device: cuda                            # cpu or cuda
    device_memory_bytes: 80e9               # of one GPU; leave it out on a processor
    matmul_flops_per_second: {float32: 19.5e12, bfloat16: 312e12}
    source: NVIDIA A100 data sheet
    devices: 8                              # of one machine: a plan takes all of them unless it is told fewer
    cores: 64
    host_memory_bytes: 512e9
    memory_bandwidth: 2.039e12              # bytes a second, of one device
    link_bytes_per_second: 300e9            # one direction, between devices of a machine
    network_bytes_per_second: 12.5e9        # between machines
    reached: 0.45                           # share of the products' speed that your trainings reach
    framework_bytes: 650e6                  # what libraries and driver take of a device
    price_per_hour: 1.79                    # of one GPU, or of the machine where device is cpu
    currency: EUR
    price_date: 2026-11-01
    price_source: offer of our provider

Prices are never guessed: without these four keys a plan has none; that of this machine is in a file of its own, see
:mod:`tunesmith.planner.price`. (The price above is an example and nobody's offer.)
"""

from __future__ import annotations

import datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tunesmith.errors import Problem, UsageError
from tunesmith.recipe.facts import HostFacts

Dtype = Literal["float32", "bfloat16"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(gt=0)]

# What process and libraries take before there is a model: torch, Transformers and the rows on a processor; the context
# of the driver on a GPU. Where a profile says it, that counts.
FRAMEWORK_BYTES = {"cpu": int(0.75 * 2**30), "cuda": int(0.6 * 2**30)}
# Memory of the host that a process with a GPU takes: libraries of CUDA are large.
PROCESS_BYTES = int(2.5 * 2**30)
# Where nothing was measured: whole steps against the products' speed. Measured on two cores with the starter model
# (docs/performance.md); for GPUs what Grattafiori et al. 2024 ("The Llama 3 Herd of Models") report, 38 to 43 %.
REACHED = {"cpu": 0.6, "cuda": 0.4}
# Gloo through the memory of one machine; sixteen lanes of PCI Express 4, of which three quarters are reached.
LINK_BYTES_PER_SECOND = {"cpu": 2e9, "cuda": 24e9}
# Ten gigabits.
NETWORK_BYTES_PER_SECOND = 1.25e9
BANDWIDTH = {"cpu": 2e10, "cuda": 3e11}
# bfloat16 loses digits, so it is taken only where it is faster by this.
_WORTHWHILE = 1.3
# Where a GPU's profile does not say it; plans then leave the host's memory out.
_USUAL_HOST_BYTES = 64 * 10**9
THIS_MACHINE = "this-machine"


class Hardware(BaseModel):
    """A machine. Bytes and rates are those of one device, except on a processor, which processes share.

    ``activation_scale`` and ``time_scale`` are what was measured over what was predicted, see
    :mod:`tunesmith.planner.calibration`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    device: Literal["cpu", "cuda"]
    devices: Annotated[int, Field(ge=1)] | None = None
    device_memory_bytes: Bytes | None = None
    host_memory_bytes: Bytes | None = None
    cores: Annotated[int, Field(ge=1)] = 8
    matmul_flops_per_second: Annotated[dict[Dtype, Positive], Field(min_length=1)]
    reached: Annotated[float, Field(gt=0, le=1)] | None = None
    memory_bandwidth: Positive | None = None
    link_bytes_per_second: Positive | None = None
    network_bytes_per_second: Positive = NETWORK_BYTES_PER_SECOND
    framework_bytes: Bytes | None = None
    source: Annotated[str, Field(min_length=1)]
    price_per_hour: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    currency: str | None = None
    price_date: datetime.date | None = None
    price_source: str | None = None
    activation_scale: Positive = 1.0
    time_scale: Positive = 1.0

    @model_validator(mode="after")
    def _agrees(self) -> Hardware:
        if (self.device == "cuda") != (self.device_memory_bytes is not None):
            raise ValueError("device_memory_bytes belongs to device: cuda, and must be there")
        if self.device == "cpu" and self.host_memory_bytes is None:
            raise ValueError("device: cpu needs host_memory_bytes")
        price = (self.price_per_hour, self.currency, self.price_date, self.price_source)
        if any(one is None for one in price) and any(one is not None for one in price):
            raise ValueError("a price needs all of price_per_hour, currency, price_date and price_source")
        return self

    def flops_per_second(self, precision: Dtype) -> float:
        """Speed of matrix products in a type.

        bfloat16 is computed as float32 where there are no units for it. Of float32 no more is known than that it is
        slower, where bfloat16 alone was measured.
        """
        known = self.matmul_flops_per_second
        if precision in known:
            return known[precision]
        return known["float32"] if "float32" in known else known["bfloat16"] / _WORTHWHILE

    @property
    def share_reached(self) -> float:
        """Share of the products' speed that whole training steps reach."""
        return self.reached or REACHED[self.device]

    @property
    def framework(self) -> int:
        """Bytes of a device that are taken before there is a model."""
        return self.framework_bytes or FRAMEWORK_BYTES[self.device]

    @property
    def bandwidth(self) -> float:
        """Bytes a second between a device and its memory."""
        return self.memory_bandwidth or BANDWIDTH[self.device]

    @property
    def link(self) -> float:
        """Bytes a second between two devices of a machine."""
        return self.link_bytes_per_second or LINK_BYTES_PER_SECOND[self.device]

    def host_facts(self) -> HostFacts:
        """What resolving a recipe wants to know of the machine."""
        float32, bfloat16 = self.flops_per_second("float32"), self.flops_per_second("bfloat16")
        fast: Dtype = "bfloat16" if bfloat16 >= _WORTHWHILE * float32 else "float32"
        return HostFacts(
            cores=self.cores,
            memory_bytes=self.host_memory_bytes or _USUAL_HOST_BYTES,
            device=self.device,
            fast_dtype=fast,
            matmul_flops_per_second=self.flops_per_second(fast),
            device_memory_bytes=self.device_memory_bytes,
            processor=self.name,
        )


@cache
def known_hardware() -> dict[str, Hardware]:
    """The profiles that ship with Tunesmith, by their ids."""
    text = resources.files("tunesmith.planner").joinpath("data", "hardware.yaml").read_text("utf-8")
    profiles = [Hardware.model_validate(one) for one in yaml.safe_load(text)]
    return {one.id: one for one in profiles}


def load_hardware(name_or_path: str) -> Hardware:
    """A profile by its id, or a file with one.

    Raises:
        UsageError: ``usage.hardware_unknown``: neither a known id nor a file, with the ids that there are;
            ``usage.hardware_file``: the file cannot be read or is no profile, all that is wrong with it at once.
    """
    known = known_hardware()
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise UsageError(
            "no such hardware",
            code="usage.hardware_unknown",
            place="--hardware",
            value=name_or_path,
            hint=f"a file with a profile, or one of {', '.join(known)}",
        )
    data = read_mapping(path, "the hardware file", "usage.hardware_file")
    try:
        return Hardware.model_validate(data)
    except ValidationError as error:
        problems = problems_of(error, "usage.hardware_file")
        raise UsageError("the hardware file holds no profile", place=str(path), problems=problems) from error


def read_mapping(path: Path, what: str, code: str) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        UsageError: Of this code: the file, called ``what``, cannot be read or holds something else.
    """
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{what} cannot be read", code=code, place=str(path), value=str(error)) from error
    if not isinstance(data, dict):
        raise UsageError(f"{what} holds no keys with values", code=code, place=str(path))
    return _plain_numbers(data)


def this_machine(host: HostFacts) -> Hardware:
    """The machine at hand, from what was measured on it."""
    flops = host.matmul_flops_per_second or known_hardware()["laptop-2-cores"].flops_per_second("float32")
    return Hardware(
        id=THIS_MACHINE,
        name=host.processor,
        device=host.device,
        device_memory_bytes=host.device_memory_bytes,
        host_memory_bytes=host.memory_bytes,
        cores=host.cores,
        matmul_flops_per_second={**(host.matmul_speeds or {}), host.fast_dtype: flops},
        source="measured on this machine",
    )


def _plain_numbers(data: dict[str, Any]) -> dict[str, Any]:
    """YAML 1.1 reads 80e9 as a word; whoever writes it means a number."""

    def number(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: number(one) for key, one in value.items()}
        try:
            return float(value) if isinstance(value, str) and value.lower().strip("+-")[:1].isdigit() else value
        except ValueError:
            return value

    words = ("id", "name", "source", "currency", "price_date", "price_source")
    return {key: value if key in words else number(value) for key, value in data.items()}


def problems_of(error: ValidationError, code: str) -> list[Problem]:
    """What is wrong with the content of a file, each with its key."""
    return [
        Problem(
            code,
            str(one["msg"]).removeprefix("Value error, "),
            place=".".join(map(str, one["loc"])) or None,
            value=None if one["type"] in ("missing", "value_error") else str(one["input"]),
        )
        for one in error.errors()
    ]
