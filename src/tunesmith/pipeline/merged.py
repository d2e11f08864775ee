"""Training on top of another run: its adapter is worked into its base, and the new run keeps what that gives.

An adapter fits the weights that it was trained on and no others, so these lie beside it: the run can then be measured,
talked to and moved whatever becomes of the run below it.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from tunesmith.models.adapters import with_adapter
from tunesmith.models.load import LoadPlan, load_model
from tunesmith.pipeline.prepare import Prepared
from tunesmith.pipeline.told import Teller
from tunesmith.runs.atomic import new_folder
from tunesmith.runs.layout import RunFolder
from tunesmith.techniques.saving import telling_save_errors


def with_merged_base(run: RunFolder, prepared: Prepared, teller: Teller) -> Prepared:
    """The same, with a whole model as the base; one that an earlier attempt wrote is taken as it is.

    Raises:
        ModelError: The adapter does not fit its base.
        OutputError: The folder cannot be written or the disk is full.
    """
    adapter = prepared.model.adapter
    if adapter is None:
        return prepared
    if not run.base.exists():
        teller.state("preparing", f"the adapter of {prepared.model.reference.name} is worked into its base")
        base = load_model(LoadPlan(prepared.model.folder, torch.float32, "cpu", "sdpa"))
        merged = with_adapter(base, adapter).merge_and_unload()
        with new_folder(run.base) as scratch:
            with telling_save_errors(scratch):
                merged.save_pretrained(scratch)
            prepared.tokenizer.save_pretrained(scratch)
    return replace(prepared, model=replace(prepared.model, folder=run.base, adapter=None))
