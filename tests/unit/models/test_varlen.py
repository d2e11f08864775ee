"""The plan of one call for all segments, followed by plain attention sequence by sequence, gives what packs give."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tunesmith.data.types import Segment
from tunesmith.models import varlen
from tunesmith.models.attention import packed_attention, plan_attention

# Two rows alone, and three that continue one beginning, two of which continue another piece after it.
SEGMENTS = (
    Segment(0, 5),
    Segment(5, 12),
    Segment(12, 20),
    Segment(20, 23, parent=2),
    Segment(23, 27, parent=2),
    Segment(27, 29, parent=4),
    Segment(29, 34, parent=4),
)


def positions(segments):
    starts = {}
    for at, segment in enumerate(segments):
        parent = segment.parent
        starts[at] = 0 if parent is None else starts[parent] + segments[parent].end - segments[parent].start
    return torch.tensor(np.concatenate([starts[at] + np.arange(s.end - s.start) for at, s in enumerate(segments)]))


def by_sequence(query, key, value, query_ends, key_ends, longest_query, longest_key, *, scale, window_size, enable_gqa):
    """What the kernel promises: queries stand at the end of their keys; ``(left, right)`` counts the tokens seen."""
    outs = []
    left, right = window_size
    lengths = zip(query_ends.diff().tolist(), key_ends.diff().tolist(), strict=True)
    assert (longest_query, longest_key) == tuple(map(max, (query_ends.diff().tolist(), key_ends.diff().tolist())))
    for at, (queries, keys) in enumerate(lengths):
        q = query[int(query_ends[at]) : int(query_ends[at + 1])].transpose(0, 1)
        k, v = (one[int(key_ends[at]) : int(key_ends[at + 1])].transpose(0, 1) for one in (key, value))
        distance = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
        seen = torch.ones_like(distance, dtype=torch.bool)
        seen = seen if right < 0 else seen & (distance >= -right)
        seen = seen if left < 0 else seen & (distance <= left)
        attended = torch.nn.functional.scaled_dot_product_attention(
            q[None], k[None], v[None], attn_mask=seen, scale=scale, enable_gqa=enable_gqa
        )
        outs.append(attended[0].transpose(0, 1))
    return torch.cat(outs)


@pytest.mark.parametrize("segments", [SEGMENTS, SEGMENTS[:2]], ids=["shared", "alone"])
@pytest.mark.parametrize("window", [None, 3, 100])
def test_one_call_does_what_the_calls_by_segment_do(monkeypatch, segments, window):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", by_sequence)
    torch.manual_seed(0)
    tokens = segments[-1].end
    query, key, value = (torch.randn(1, heads, tokens, 8, dtype=torch.float64) for heads in (4, 2, 2))
    plan = plan_attention(segments, positions(segments))
    module = SimpleNamespace(is_causal=True, training=False)
    expected, _ = packed_attention(module, query, key, value, None, scaling=0.3, pack_plan=plan, sliding_window=window)
    found = varlen.varlen_attention(
        query, key, value, varlen.plan_varlen(segments, query.device), scaling=0.3, window=window, is_causal=True
    )
    torch.testing.assert_close(found, expected)


def test_tokens_that_see_both_ways_see_their_whole_row(monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", by_sequence)
    segments = SEGMENTS[:2]
    query = torch.randn(1, 2, 12, 8, dtype=torch.float64)
    plan = plan_attention(segments, positions(segments))
    expected, _ = packed_attention(
        SimpleNamespace(is_causal=False, training=False), query, query, query, None, scaling=1.0, pack_plan=plan
    )
    found = varlen.varlen_attention(
        query, query, query, varlen.plan_varlen(segments, query.device), scaling=1.0, window=None, is_causal=False
    )
    torch.testing.assert_close(found, expected)


def test_on_a_cpu_nothing_goes_through_the_kernel():
    query = torch.randn(1, 2, 5, 8, dtype=torch.bfloat16)
    assert plan_attention(SEGMENTS[:1], torch.arange(5)).varlen is None
    assert not varlen.takes_varlen(query)


def test_a_plan_with_sequences_is_followed_only_where_the_kernel_takes_the_queries(monkeypatch):
    monkeypatch.setattr("tunesmith.models.attention.takes_varlen", lambda query: query.dtype == torch.bfloat16)
    calls = []
    monkeypatch.setattr(
        "tunesmith.models.attention.varlen_attention",
        lambda query, *_, **__: calls.append(query.dtype) or query.transpose(1, 2),
    )
    plan = replace(
        plan_attention(SEGMENTS[:1], torch.arange(5)), varlen=varlen.plan_varlen(SEGMENTS[:1], torch.device("cpu"))
    )
    for dtype in (torch.float32, torch.bfloat16):
        query = torch.randn(1, 2, 5, 8, dtype=dtype)
        packed_attention(SimpleNamespace(training=False), query, query, query, None, scaling=1.0, pack_plan=plan)
        packed_attention(
            SimpleNamespace(training=False), query, query, query, None, scaling=1.0, pack_plan=plan, softcap=2.0
        )
    assert calls == [torch.bfloat16]
