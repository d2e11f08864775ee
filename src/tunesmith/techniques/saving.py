"""Write errors of libraries, told as errors of Tunesmith."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

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
