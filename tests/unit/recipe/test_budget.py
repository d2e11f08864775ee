from __future__ import annotations

import pytest

from tunesmith.recipe.budget import Budget, parse_budget


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("90s", Budget(seconds=90)),
        ("10m", Budget(seconds=600)),
        (" 2h ", Budget(seconds=7200)),
        ("1h30m", Budget(seconds=5400)),
        ("1.5h", Budget(seconds=5400)),
        ("0h1s", Budget(seconds=1)),
        ("1 token", Budget(tokens=1)),
        ("500k tokens", Budget(tokens=500_000)),
        ("1.5M tokens", Budget(tokens=1_500_000)),
        ("2Mtokens", Budget(tokens=2_000_000)),
    ],
)
def test_budgets(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "10",
        "0m",
        "0 tokens",
        "0.4 tokens",
        "-5m",
        "5 minutes",
        "30m1h",
        "1e3s",
        "infs",
        "2B tokens",
        "\N{ARABIC-INDIC DIGIT THREE}m",
        "9" * 400 + "h",
        "9" * 400 + " tokens",
    ],
)
def test_no_budgets(text):
    with pytest.raises(ValueError, match="write a time such as 90s, 10m or 1h30m, or tokens such as 500k tokens"):
        parse_budget(text)
