"""An error that comes after something was found: ``--json`` then prints both in one document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.errors import TunesmithError


class FoundError(Exception):
    """Carries an error together with what was found before it.

    Args:
        error: What is told, and whose exit code counts.
        document: What ``--json`` prints beside the error.
    """

    def __init__(self, error: TunesmithError, document: Mapping[str, Any]) -> None:
        super().__init__(error.message)
        self.error = error
        self.document = document
