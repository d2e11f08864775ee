"""What packs and steps hold behind a beginning that rows share: one rule for laying out, estimates and plans."""

from __future__ import annotations

from tunesmith.recipe.facts import DataFacts
from tunesmith.recipe.schema import Recipe

USUAL_EPOCHS = 3.0
STEPS_WANTED = 120
FEWEST_OWN_TOKENS = 384
MOST_OWN_TOKENS = 4096
SHORTEST_SHARED_PREFIX = 16


def own_room(pack_tokens: int, beginning: int, longest_row: int) -> int:
    """Tokens that a pack has room for behind a beginning of so many tokens; below 1 it has none.

    A row that is longer than a pack goes through whole in any case. So where there is one, its pack may go on by half
    the tokens of a pack: several such rows then share what they begin with, which is most of their tokens.

    Args:
        pack_tokens: Tokens of a pack.
        beginning: Tokens that all rows of the pack begin with.
        longest_row: Tokens of the longest row that is to go behind it.
    """
    room = pack_tokens - beginning
    return max(room, pack_tokens // 2) if longest_row > pack_tokens else room


def is_long(beginning: int, data: DataFacts) -> bool:
    """Whether a beginning is so much of a row that packs should have room behind it."""
    return beginning * 4 > data.mean_row_tokens


def rows_a_beginning(pack_tokens: int, data: DataFacts) -> float:
    """How many rows of average length stand behind what all rows begin with, computed once; at least 1."""
    room = own_room(pack_tokens, data.shared_prefix_tokens, round(data.mean_row_tokens))
    return float(max(1, int(room / data.own_row_tokens)))


def largest_pack(data: DataFacts, pack_tokens: int, step_tokens: int, *, share: bool) -> int:
    """Tokens of the largest pack: no larger than its step, and no smaller than the longest row."""
    beginning = max(data.shared_prefix_tokens, data.group_prefix_tokens) if share else 0
    most = max(pack_tokens, beginning + own_room(pack_tokens, beginning, data.longest_row))
    return max(min(most, step_tokens), data.longest_row)


def rows_a_step(rows: float, data: DataFacts, pack_tokens: int | None) -> float:
    """Rows of average length in a step, so that ``rows`` in all make enough steps.

    Args:
        rows: All that are seen, counted as often as they are.
        data: The training data in tokens.
        pack_tokens: Tokens of a pack; None where nothing is shared.
    """
    own, beginning = max(1.0, data.mean_row_tokens), 0
    if pack_tokens is not None and data.group_shared_tokens:
        own, beginning = max(1.0, own - data.group_shared_tokens / data.rows), data.group_prefix_tokens
    elif pack_tokens is not None and rows_a_beginning(pack_tokens, data) >= 2:
        own, beginning = data.own_row_tokens, data.shared_prefix_tokens
    fewest: float = FEWEST_OWN_TOKENS
    if pack_tokens is not None and beginning >= SHORTEST_SHARED_PREFIX:
        # A shared beginning is computed once a pack, so few rows a step would leave most of the work to it; and more
        # than a pack holds would compute it again.
        room = own_room(pack_tokens, beginning, round(data.mean_row_tokens))
        fewest = max(fewest, min(2.0 * beginning, room))
    return min(max(rows * own / STEPS_WANTED, fewest), max(MOST_OWN_TOKENS, fewest)) / own


def rows_together(recipe: Recipe, data: DataFacts, pack_tokens: int) -> float:
    """How many rows of average length share one computed beginning: those of a step, as many as a pack holds."""
    train, mean = recipe.train, max(1.0, data.mean_row_tokens)
    if train.rows_per_step != "auto":
        a_step = float(train.rows_per_step)
    elif train.tokens_per_step != "auto":
        a_step = train.tokens_per_step / mean
    else:
        a_step = rows_a_step(USUAL_EPOCHS * data.rows, data, pack_tokens)
    return max(1.0, min(a_step, rows_a_beginning(pack_tokens, data)))
