"""Tunesmith: fine-tune language models, and prove what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.api import Job, Model, Run, advise, load, open_run, plan, register, submit, train

__all__ = ["Job", "Model", "Run", "advise", "load", "open_run", "plan", "register", "submit", "train"]


def __getattr__(name: str) -> Any:
    """Import the Python door when one of its names is used: the command line starts without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tunesmith import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
