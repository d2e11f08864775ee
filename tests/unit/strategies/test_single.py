from __future__ import annotations

import pytest
import torch

from tunesmith.errors import RecipeError
from tunesmith.strategies.table import make_strategy


def weights(*gradients: list[float] | None) -> list[torch.nn.Parameter]:
    made = []
    for gradient in gradients:
        parameter = torch.nn.Parameter(torch.zeros(2))
        parameter.grad = None if gradient is None else torch.tensor(gradient)
        made.append(parameter)
    return made


def test_clip_scales_to_the_norm_and_tells_the_norm_before() -> None:
    parameters = weights([3.0, 0.0], None, [0.0, 4.0])
    assert make_strategy("single", "cpu").clip(parameters, 1.0) == pytest.approx(5.0)
    assert parameters[0].grad is not None
    assert parameters[0].grad.tolist() == pytest.approx([0.6, 0.0], rel=1e-5)
    assert parameters[1].grad is None


def test_small_gradients_stay_and_none_means_no_limit() -> None:
    for limit in (6.0, None):
        parameters = weights([3.0, 4.0])
        assert make_strategy("single", "cpu").clip(parameters, limit) == pytest.approx(5.0)
        assert parameters[0].grad is not None
        assert parameters[0].grad.tolist() == [3.0, 4.0]


def test_one_rank() -> None:
    strategy = make_strategy("single", "cpu")
    assert (strategy.group.rank, strategy.group.world_size, strategy.group.is_main) == (0, 1, True)
    assert strategy.group.sum_over_ranks([1.5, 2.0]) == [1.5, 2.0]
    assert strategy.group.device == torch.device("cpu")


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(RecipeError, match="single"):
        make_strategy("zero9", "cpu")
