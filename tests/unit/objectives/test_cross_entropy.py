"""The loss of labels equals PyTorch's own in value and gradient, smoothed or not, however it is cut into chunks."""

from __future__ import annotations

import pytest
import torch

from tunesmith.objectives import cross_entropy
from tunesmith.objectives.cross_entropy import projected_losses, token_losses

LABELS, VOCABULARY = 13, 29


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("elements", [2**22, 3 * VOCABULARY, 1], ids=["one chunk", "uneven chunks", "label by label"])
def test_value_and_gradient_are_those_of_torch(
    monkeypatch: pytest.MonkeyPatch, smoothing: float, elements: int
) -> None:
    monkeypatch.setattr(cross_entropy, "_CHUNK_ELEMENTS", elements)
    torch.manual_seed(0)
    labels_L = torch.randint(VOCABULARY, (LABELS,))
    weights_L = torch.rand(LABELS, dtype=torch.float64)
    ours = (5 * torch.randn(LABELS, VOCABULARY, dtype=torch.float64)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    losses_L, hits_L = token_losses(ours, labels_L, smoothing)
    expected_L = torch.nn.functional.cross_entropy(theirs, labels_L, label_smoothing=smoothing, reduction="none")
    (losses_L * weights_L).sum().backward()  # type: ignore[no-untyped-call]
    (expected_L * weights_L).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(losses_L, expected_L)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert torch.equal(hits_L, theirs.argmax(-1) == labels_L)


def test_half_precision_scores_are_summed_in_single_precision() -> None:
    torch.manual_seed(0)
    logits_L_V, labels_L = torch.randn(LABELS, VOCABULARY).bfloat16(), torch.randint(VOCABULARY, (LABELS,))
    losses_L, _ = token_losses(logits_L_V, labels_L, 0.1)
    assert losses_L.dtype == torch.float32
    expected_L = torch.nn.functional.cross_entropy(logits_L_V.float(), labels_L, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(losses_L, expected_L)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("elements", [2**24, 3 * VOCABULARY, 1], ids=["one chunk", "uneven chunks", "label by label"])
def test_losses_of_states_are_those_of_their_scores(
    monkeypatch: pytest.MonkeyPatch, smoothing: float, elements: int
) -> None:
    monkeypatch.setattr(cross_entropy, "_PROJECTED_ELEMENTS", elements)
    torch.manual_seed(0)
    labels_L = torch.randint(VOCABULARY, (LABELS,))
    weights_L = torch.rand(LABELS, dtype=torch.float64)
    matrix_V_H = torch.randn(VOCABULARY, 7, dtype=torch.float64)
    ours = (3 * torch.randn(LABELS, 7, dtype=torch.float64)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    losses_L, hits_L = projected_losses(ours, matrix_V_H, labels_L, smoothing)
    scores_L_V = theirs @ matrix_V_H.T
    expected_L = torch.nn.functional.cross_entropy(scores_L_V, labels_L, label_smoothing=smoothing, reduction="none")
    (losses_L * weights_L).sum().backward()  # type: ignore[no-untyped-call]
    (expected_L * weights_L).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(losses_L, expected_L)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert torch.equal(hits_L, scores_L_V.argmax(-1) == labels_L)
    with torch.no_grad():
        assert torch.equal(projected_losses(ours, matrix_V_H, labels_L, smoothing)[0], losses_L)


def test_states_under_autocast_give_what_scores_under_autocast_give() -> None:
    torch.manual_seed(0)
    labels_L, matrix_V_H = torch.randint(VOCABULARY, (LABELS,)), torch.randn(VOCABULARY, 8)
    found = []
    for projected in (True, False):
        states_L_H = torch.randn(LABELS, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if projected:
                losses_L, _ = projected_losses(states_L_H, matrix_V_H, labels_L)
            else:
                losses_L, _ = token_losses(torch.nn.functional.linear(states_L_H, matrix_V_H), labels_L)
        losses_L.sum().backward()  # type: ignore[no-untyped-call]
        assert losses_L.dtype == torch.float32
        found.append((losses_L.detach(), states_L_H.grad))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=3e-2, atol=3e-2)
