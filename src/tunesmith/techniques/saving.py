"""Write errors of libraries, told as errors of Tunesmith."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from tunesmith.runs.atomic import telling_output_errors

_OS_ERROR = re.compile(r"\(os error (\d+)\)")


@contextmanager
def telling_save_errors(path: Path) -> Iterator[None]:
    """Turn write errors of the block, those of the safetensors library too, into an OutputError that names ``path``."""
    with telling_output_errors(path):
        try:
            yield
        except SafetensorError as error:
            found = _OS_ERROR.search(str(error))
            number = int(found[1]) if found else errno.EIO
            raise OSError(number, os.strerror(number) if found else str(error)) from error
