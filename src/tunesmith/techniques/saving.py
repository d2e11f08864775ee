"""Write errors of libraries, told as errors of Tunesmith."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel

from tunesmith.models.saving import plain_os_errors
from tunesmith.runs.atomic import telling_output_errors


@contextmanager
def telling_save_errors(path: Path) -> Iterator[None]:
    """Turn write errors of the block, those of the safetensors library too, into an OutputError that names ``path``."""
    with telling_output_errors(path):
        try:
            with plain_os_errors():
                yield
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error)) from error


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write config and safetensors under names that the model's class finds when another program loads it.

    Transformers takes back the renaming that loading did. For heads that mark answers that would bring back the names
    of the model below, which some of their classes do not know; other programs would draw its weights anew.

    Raises:
        OutputError: The disk is full or the folder cannot be written.
    """
    marks_answers = type(model).__name__.endswith("ForQuestionAnswering")
    with telling_save_errors(folder):
        model.save_pretrained(folder, save_original_format=not marks_answers)
