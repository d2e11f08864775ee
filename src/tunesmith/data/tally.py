"""What one pass over examples left out, refused and counted; the facts of the store that it wrote."""

from __future__ import annotations

from typing import Any, Literal

from tunesmith.errors import Problem, SupervisionError, UsageError
from tunesmith.formats.examples import Place

OnLongRows = Literal["refuse", "skip", "truncate"]
OnBadRows = Literal["refuse", "skip"]
FIRST_ROWS = 10


class Tally:
    """Counts of one pass; ``facts`` go into the store's manifest."""

    def __init__(
        self, max_length: int, on_long_rows: OnLongRows, on_bad_rows: OnBadRows = "refuse", **more: Any
    ) -> None:
        self.facts: dict[str, Any] = {
            "examples": 0,
            "max_length": max_length,
            "on_long_rows": on_long_rows,
            "skipped": 0,
            "skipped_first": [],
            "split_documents": 0,
            "unusable": 0,
            "unusable_first": [],
            **more,
        }
        self._skips_bad_rows = on_bad_rows == "skip"
        self._refused: list[Problem] = []
        self._refused_count = 0

    def skip(self, place: Place) -> None:
        """Count an example that is left out, as was asked for."""
        self.facts["skipped"] += 1
        if len(self.facts["skipped_first"]) < FIRST_ROWS:
            self.facts["skipped_first"].append(str(place))

    def refuse(self, place: Place, error: SupervisionError) -> None:
        """Count an example that cannot be used; the pass goes on, so that all are found.

        Where bad rows are to be skipped, it is left out and told of.
        """
        if self._skips_bad_rows:
            self.facts["unusable"] += 1
            if len(self.facts["unusable_first"]) < FIRST_ROWS:
                self.facts["unusable_first"].append(f"{place} ({error.message})")
            return
        self._refused_count += 1
        if len(self._refused) < FIRST_ROWS:
            self._refused.append(Problem(error.code, error.message, str(place), error.value, error.hint))

    def raise_refused(self, what: str) -> None:
        """Raise where examples were refused; ``what`` says what cannot be done with them.

        Raises:
            SupervisionError: ``supervision.rows``, with the first of them named.
        """
        if self._refused_count:
            more = self._refused_count - len(self._refused)
            raise SupervisionError(
                f"{self._refused_count} of {self.facts['examples']} rows cannot be {what}"
                + (f" (the first {len(self._refused)} are shown)" if more else ""),
                code="supervision.rows",
                problems=self._refused,
            )


def require_bounds(max_length: int, on_long_rows: str) -> None:
    """Refuse a length that no row has, and an unknown policy.

    Raises:
        UsageError: ``data.max_length`` or ``data.on_long_rows``.
    """
    if max_length < 2:
        raise UsageError("a row needs at least 2 tokens", code="data.max_length", value=max_length)
    if on_long_rows not in ("refuse", "skip", "truncate"):
        raise UsageError("on_long_rows is refuse, skip or truncate", code="data.on_long_rows", value=on_long_rows)
