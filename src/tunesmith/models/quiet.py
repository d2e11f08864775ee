"""Keep the model libraries from drawing bars and printing advice: events are the only progress channel."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def quiet_imports() -> None:
    """For processes of our own: no advice about faster kernels, which bitsandbytes logs when PEFT imports it."""
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence Transformers' progress bars, log lines below errors and Python warnings while the block lasts.

    What the libraries were set to before comes back at the end.
    """
    from transformers.utils import logging as transformers_logging

    library: Any = transformers_logging
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()
