"""A model as it came and as it was tuned, loaded one after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.catalog.heads import Head
from tunesmith.models.adapters import with_adapter
from tunesmith.models.load import LoadPlan, load_model
from tunesmith.models.prepare import PreparedModel
from tunesmith.models.quantized import quantization_of
from tunesmith.pipeline.prepare import prepare_base
from tunesmith.pipeline.told import Teller


@dataclass(frozen=True)
class Contestants:
    """Where the weights of both lie and how they are loaded; ``is_tuned`` says that there is a tuned one."""

    place: PreparedModel
    base_folder: Path
    is_tuned: bool
    device: str
    dtype: torch.dtype
    attention: str
    head: Head | None = None

    def load_base(self) -> Any:
        """The model as it came, in as few bits as the adapter beside it was trained on."""
        adapter = self.place.adapter
        quantization = None if adapter is None else quantization_of(adapter)
        return load_model(replace(self._plan(self.base_folder), quantization=quantization))

    def load_tuned(self, base: Any) -> Any:
        """The tuned model: the loaded base with the adapter on it, or weights of its own."""
        if self.place.adapter is not None:
            return with_adapter(base, self.place.adapter)
        return load_model(self._plan(self.place.folder))

    def _plan(self, folder: Path) -> LoadPlan:
        return LoadPlan(folder, self.dtype, self.device, self.attention, self.head)


def find_contestants(
    place: PreparedModel,
    runs_folder: Path,
    teller: Teller,
    *,
    is_run: bool,
    device: str,
    dtype: torch.dtype,
    attention: str,
    head: Head | None = None,
) -> Contestants:
    """Who is measured when a model is named: a finished run or an adapter stands beside its base.

    A ``head`` is put on both, the base's one as it was before training.
    """
    is_tuned = place.adapter is not None or is_run
    base_folder = place.folder
    if is_tuned and place.adapter is None:
        base_folder = prepare_base(place.reference, runs_folder, teller).folder
    return Contestants(place, base_folder, is_tuned, device, dtype, attention, head)
