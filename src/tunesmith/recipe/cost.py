"""A rough estimate of time, from matrix products alone; good enough to choose defaults, not to plan by."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.recipe.facts import DataFacts, HostFacts, ModelFacts

# Where nothing was measured: a laptop of two cores.
_USUAL_FLOPS_PER_SECOND = 200e9
# Share of the matrix products' speed that whole training steps and answers reach; measured on two cores.
_REACHED_IN_TRAINING = 0.6
_REACHED_IN_FORWARD = 0.5
# Decoding is bound by memory: tokens a second of a batch, for 135 million fp32 parameters on two cores.
_DECODED_PARAMETERS_PER_SECOND = 100 * 135e6


@dataclass(frozen=True)
class Cost:
    """Seconds of work. ``row_tokens`` are a row's tokens on average."""

    row_tokens: float
    train_seconds_per_row: float
    forward_seconds_per_token: float
    decode_seconds_per_token: float
    prompt_tokens: float

    def evaluation_seconds_per_row(self, new_tokens: int, room_used: float = 0.5) -> float:
        """One row measured under one system: its loss, its prompt, and its answer, which takes a share of its room."""
        answer_tokens = room_used * new_tokens
        return 2 * self.prompt_tokens * self.forward_seconds_per_token + answer_tokens * self.decode_seconds_per_token


def estimate_cost(
    data: DataFacts, model: ModelFacts, host: HostFacts, *, full: bool, rows_together: float | None = None
) -> Cost:
    """Estimate from parameters and the machine's matrix products: 2 operations a parameter and token in a forward.

    A backward takes as many again for activations, and once more for weights where all of them train.

    Args:
        data: The training data in tokens.
        model: The model.
        host: The machine.
        full: Whether all weights train.
        rows_together: For how many rows what all begin with is computed once; None where nothing is shared.
    """
    flops = host.matmul_flops_per_second or _USUAL_FLOPS_PER_SECOND
    # At least a token and a parameter, so that nothing is divided by zero.
    row_tokens = max(1.0, data.mean_row_tokens)
    parameters = max(1, model.parameters)
    tokens = row_tokens
    if rows_together is not None:
        tokens = data.own_row_tokens + data.shared_prefix_tokens / rows_together
    per_token = (6 if full else 4) * parameters / (flops * _REACHED_IN_TRAINING)
    decode = parameters / (_DECODED_PARAMETERS_PER_SECOND * flops / _USUAL_FLOPS_PER_SECOND)
    return Cost(
        row_tokens=row_tokens,
        train_seconds_per_row=tokens * per_token,
        forward_seconds_per_token=2 * parameters / (flops * _REACHED_IN_FORWARD),
        decode_seconds_per_token=decode,
        prompt_tokens=tokens,
    )
