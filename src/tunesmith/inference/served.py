"""What a served model does for those who ask."""

from __future__ import annotations

from typing import Literal

from tunesmith.catalog.heads import read_head
from tunesmith.errors import ModelError
from tunesmith.models.check import model_kind, read_config
from tunesmith.wire.serving import ServedModel

Kind = Literal["writes", "labels", "embeds"]


def kind_of(model: ServedModel) -> Kind:
    """What a model does for those who ask.

    Raises:
        ModelError: ``model.not_served``: it has encoder and decoder; or its folder holds no model.
    """
    if model.runtime != "torch":
        return "writes"
    if read_head(model.adapter or model.folder) is not None:
        return "labels"
    kind = model_kind(read_config(model.folder))
    if kind == "causal":
        return "writes"
    if kind == "encoder" and model.adapter is None:
        return "embeds"
    raise ModelError(
        "models with encoder and decoder are not served; they write what `tunesmith eval` measures",
        code="model.not_served",
        place=str(model.folder),
        hint="load the folder with AutoModelForSeq2SeqLM, or train a causal model on the same rows",
    )
