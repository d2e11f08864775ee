"""What base and tuned models are measured on beside the held-out rows: general text, and multiple choice.

General text is prose of many kinds that no training data should hold. A model that has learned one domain and loses on
it has forgotten something.

Shape suffixes: T tokens of a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson

from tunesmith.data.types import TokenRow
from tunesmith.evaluation.held_out import Item, LabelLosses, Layout, held_out_losses
from tunesmith.evaluation.multiple_choice import Scoring
from tunesmith.evaluation.robustness import measure_choices
from tunesmith.evaluation.systems import Measured
from tunesmith.formats.choices import ChoiceFile
from tunesmith.samples import general_text


@dataclass(frozen=True)
class Beside:
    """What is measured beside; nothing where there is neither general text nor a file of questions.

    Attributes:
        general: General text as rows whose every token but the first counts.
        choices: Multiple-choice questions.
        label_losses: The loss of each token of a pack.
        layout: How rows go through the model.
        scoring: How questions do; only needed for them.
        seed: Of intervals.
        should_stop: Asked now and then.
    """

    general: Sequence[Item] = ()
    choices: ChoiceFile | None = None
    label_losses: LabelLosses | None = None
    layout: Layout | None = None
    scoring: Scoring | None = None
    seed: int = 0
    should_stop: Callable[[], bool] = lambda: False

    def added_to(self, measured: Measured, model: Any) -> Measured:
        """A system's measurement with what is measured beside it.

        Raises:
            Stopped: ``should_stop`` said so.
            DataError: A question does not fit into the model's context.
        """
        started = time.monotonic()
        model.eval()
        if self.general and self.label_losses is not None and self.layout is not None:
            general = held_out_losses(model, self.general, self.label_losses, self.layout, should_stop=self.should_stop)
            measured = replace(measured, general=general)
        if self.choices is not None and self.scoring is not None:
            found = measure_choices(
                model,
                self.choices.questions,
                self.scoring,
                robustness=False,
                seed=self.seed,
                should_stop=self.should_stop,
            )
            measured = replace(measured, choices=found)
        return replace(measured, beside_seconds=time.monotonic() - started)


def general_rows(tokenizer: Any, most_tokens: int) -> list[Item]:
    """The bundled general text as the tokenizer gives it, each paragraph one row of at most ``most_tokens``."""
    rows: list[Item] = []
    for number, line in enumerate(general_text().read_bytes().splitlines(), 1):
        ids_T = np.asarray(tokenizer(orjson.loads(line)["text"], verbose=False)["input_ids"], dtype=np.int64)
        ids_T = ids_T[:most_tokens]
        if len(ids_T) > 1:
            rows.append((TokenRow(ids_T, np.arange(len(ids_T)) > 0, f"general_text.jsonl:{number}"),))
    return rows
