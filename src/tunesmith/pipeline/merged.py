"""Training on top of another run: its adapter is worked into its base, and the new run keeps what that gives.

An adapter fits the weights that it was trained on and no others, so these lie beside it: the run can then be measured,
talked to and moved whatever becomes of the run below it.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from tunesmith.catalog.heads import read_head, write_head
from tunesmith.models.adapters import method_of, with_adapter
from tunesmith.models.load import LoadPlan, load_model
from tunesmith.models.quantized import dequantize, quantization_of
from tunesmith.pipeline.prepare import Prepared
from tunesmith.pipeline.told import Teller
from tunesmith.runs.atomic import new_folder, write_json
from tunesmith.runs.layout import RunFolder
from tunesmith.techniques.merging import logits_of, merge_difference
from tunesmith.techniques.peft_method import require_mergeable
from tunesmith.techniques.saving import save_model

# On so many training rows the merge is measured, and where the merged folder says what came of it.
COMPARED_ROWS = 8
MERGE = "merge.json"


def with_merged_base(run: RunFolder, prepared: Prepared, teller: Teller) -> Prepared:
    """The same, with a whole model as the base; one that an earlier attempt wrote is taken as it is.

    Raises:
        ModelError: The adapter does not fit its base, or is of a method that cannot be merged.
        OutputError: The folder cannot be written or the disk is full.
    """
    adapter = prepared.model.adapter
    if adapter is None:
        return prepared
    require_mergeable(method_of(adapter))
    if not run.base.exists():
        teller.state("preparing", f"the adapter of {prepared.model.reference.name} is worked into its base")
        quantization = quantization_of(adapter)
        head = read_head(adapter)
        plan = LoadPlan(prepared.model.folder, torch.float32, "cpu", "sdpa", head=head, quantization=quantization)
        base = load_model(plan)
        if quantization is not None:
            # What the adapter was trained beside: merged into whole weights it would stand on others.
            base = dequantize(base)
            teller.state(
                "preparing", f"the base's {quantization.kind} weights become plain ones, then the adapter is merged"
            )
        adapted = with_adapter(base, adapter)
        rows = [prepared.train[row] for row in range(min(len(prepared.train), COMPARED_ROWS))]
        before = logits_of(adapted, rows)
        merged = adapted.merge_and_unload()
        difference = merge_difference(before, logits_of(merged, rows))
        teller.state("preparing", f"merged: {difference}")
        with new_folder(run.base) as scratch:
            save_model(merged, scratch)
            prepared.tokenizer.save_pretrained(scratch)
            if head is not None:
                write_head(scratch, head)
            write_json(scratch / MERGE, difference.to_json())
    return replace(prepared, model=replace(prepared.model, folder=run.base, adapter=None))
