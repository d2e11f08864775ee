"""Access to the values of a raw row by our field names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from tunesmith.formats.columns import STRUCTURED
from tunesmith.formats.rows import RowProblem, clip


@dataclass(frozen=True)
class Fields:
    """A raw row seen through a column map."""

    row: Mapping[str, Any]
    columns: Mapping[str, str]
    json_cells: bool = False

    def get(self, field: str) -> Any:
        """The value of a field, or None where the row has none; a JSON cell is decoded."""
        column = self.columns.get(field)
        if column is None:
            return None
        value = self.row.get(column)
        if self.json_cells and field in STRUCTURED and isinstance(value, str) and value.strip()[:1] in ("[", "{"):
            return decoded(value)
        return value

    def has(self, field: str) -> bool:
        """Whether the field has a column at all."""
        return field in self.columns

    def text(self, field: str) -> str:
        """A text that must be there and must not be blank.

        Raises:
            RowProblem: ``missing_FIELD``, ``empty_FIELD`` or ``data_type``.
        """
        value = self.get(field)
        if value is None:
            raise RowProblem(f"missing_{field}", f"no value in column `{self.columns.get(field, field)}`")
        if not isinstance(value, str):
            raise RowProblem("data_type", f"`{self.columns[field]}` must be a text, found {clip(value)}")
        if not value.strip():
            raise RowProblem(f"empty_{field}", f"`{self.columns[field]}` is empty")
        return value

    def optional_text(self, field: str) -> str | None:
        """A text, or None where it is absent or blank.

        Raises:
            RowProblem: ``data_type``.
        """
        value = self.get(field)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        return self.text(field)


def decoded(value: str) -> Any:
    """The value of a text that holds JSON, or the text itself where it does not."""
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def plain_word(value: Any) -> str | None:
    """A text, number or truth value as text; None for anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None
