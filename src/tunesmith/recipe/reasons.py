"""Why each resolved value is what it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# A value that the recipe gives itself.
ASKED = "as the recipe says"


@dataclass
class Reasons:
    """The reason of each key that was resolved so far."""

    said: dict[str, str] = field(default_factory=dict)

    def give(self, key: str, value: Any, reason: str) -> Any:
        """Note a reason; returns the value."""
        self.said[key] = reason
        return value
