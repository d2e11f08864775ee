"""Make write errors of libraries that are written in Rust look like those of Python."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


@contextmanager
def plain_os_errors() -> Iterator[None]:
    """Turn the errors that safetensors and tokenizers raise on a full or read-only disk into an OSError.

    Both put the system's error number into the text of an error class of their own; without this a full disk would
    pass by everything that waits for an OSError.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        found = _SYSTEM_ERROR.search(str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number)) from error
