"""Packs of several adapters as one, so that the large products of a model are made once for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate

import numpy as np

from tunesmith.data.types import Pack


def join_packs(packs: Mapping[str, Pack]) -> Pack:
    """One pack behind the other, each segment with the name of the adapter that its pack stands under.

    Nothing is shared between them: what an adapter makes of a common beginning is its own. ``Pack.rows`` are the items
    of all packs in order; the caller knows which are whose.
    """
    given = list(packs.values())
    tokens = [0, *accumulate(pack.tokens for pack in given)]
    segments = [0, *accumulate(len(pack.segments) for pack in given)]
    rows = [0, *accumulate(len(pack.kinds_S) for pack in given)]
    return Pack(
        token_ids_T=np.concatenate([pack.token_ids_T for pack in given]),
        position_ids_T=np.concatenate([pack.position_ids_T for pack in given]),
        segments=tuple(
            replace(
                segment,
                start=segment.start + start,
                end=segment.end + start,
                parent=None if segment.parent is None else segment.parent + first,
                adapter=name,
            )
            for (name, pack), start, first in zip(packs.items(), tokens, segments, strict=False)
            for segment in pack.segments
        ),
        label_positions_L=np.concatenate(
            [pack.label_positions_L + start for pack, start in zip(given, tokens, strict=False)]
        ),
        labels_L=np.concatenate([pack.labels_L for pack in given]),
        label_rows_L=np.concatenate([pack.label_rows_L + first for pack, first in zip(given, rows, strict=False)]),
        rows=tuple(item for pack in given for item in pack.rows),
        kinds_S=np.concatenate([pack.kinds_S for pack in given]),
    )
