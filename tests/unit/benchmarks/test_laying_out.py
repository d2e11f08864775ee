"""What the benchmark of laying out takes as the bound for sharing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.laying_out import different_beginnings, table_line
from tunesmith.data.packs import lay_out
from tunesmith.data.types import TokenRow

ROOT = Path(__file__).resolve().parents[3]


def row(*tokens: int, trained: int = 2) -> TokenRow:
    """A row whose last tokens are trained."""
    return TokenRow(np.array(tokens), np.arange(len(tokens)) >= len(tokens) - trained, "rows.jsonl:1")


@pytest.mark.parametrize(
    ("rows", "tokens"),
    [
        ([row(1, 2, 3)], 3),
        # 1 2 3 4 once, then two tails.
        ([row(1, 2, 3, 4, 8, 9), row(1, 2, 3, 4, 8, 9)], 8),
        # Three levels: 1 2 for all, 3 4 for three, 5 6 for two.
        (
            [row(1, 2, 3, 4, 5, 6, 7, 8), row(1, 2, 3, 4, 5, 6, 7, 8), row(1, 2, 3, 4, 9, 7, 8), row(1, 2, 9, 9, 7, 8)],
            2 + 2 + 2 + 2 + 2 + 3 + 4,
        ),
    ],
)
def test_each_beginning_counts_once(rows, tokens):
    assert different_beginnings(rows) == tokens
    # No layout of the rows computes less.
    packs = lay_out(list(enumerate(rows)), tokens_per_micro_batch=1000)
    assert tokens <= sum(pack.tokens for pack in packs)


def test_the_page_has_the_lines_of_the_newest_kept_result():
    newest = max((ROOT / "benchmarks" / "results").glob("*-laying-out-*.json"))
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8").splitlines()
    measured = json.loads(newest.read_text(encoding="utf-8"))["measured"]
    assert [line for name, found in measured.items() if (line := table_line(name, found)) not in page] == []
